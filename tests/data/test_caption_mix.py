"""Several captions per sample: drawn by weight, by name, and never an empty one."""

import json
from collections import Counter
from pathlib import Path

import pytest
from media import gradient, picture_bytes
from test_module import attached, on_shards

from mmflow.data.caption_mix import CaptionMix
from mmflow.data.container import UnreadableSample
from mmflow.data.index import build_index
from mmflow.data.shard import ShardSample, write_shard

HALF = CaptionMix((("txt", 0.5), ("long", 0.5), ("off", 0.0)))


def test_weights_are_shares_and_draws_are_named() -> None:
    captions = {"txt": "a", "long": "b", "off": "c"}
    mix = CaptionMix((("txt", 1.0), ("long", 3.0)))
    drawn = [mix.draw(captions, 0, ("s", "0", str(n)), 0) for n in range(4000)]
    assert Counter(drawn)["b"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert drawn[:50] == [mix.draw(captions, 0, ("s", "0", str(n)), 0) for n in range(50)]
    visits = {HALF.draw(captions, 0, ("s", "0", "1"), visit) for visit in range(30)}
    assert visits == {"a", "b"}, "another one at another visit, and never the one without weight"


def test_empty_captions_are_never_drawn() -> None:
    assert {HALF.draw({"long": "b"}, 0, ("s",), n) for n in range(50)} == {"b"}
    assert HALF.draw({}, 0, ("s",), 0) == ""
    assert HALF.read("", b'{"long": "  ", "off": "c"}') == {}
    assert HALF.read(" ", json.dumps({"long": ["", "b"]}).encode()) == {"txt": " ", "long": "b"}


@pytest.mark.parametrize("about", [b"{", b"[1]", b'{"long": 3}', b'{"long": {"a": 1}}', b"\xff", b"[" * 100_000])
def test_a_json_that_says_no_caption_is_a_bad_sample(about: bytes) -> None:
    with pytest.raises(UnreadableSample, match="caption_json"):
        HALF.read("a", about)


@pytest.mark.parametrize("weights", [(), (("txt", 0.0),), (("txt", -1.0), ("b", 2.0)), (("txt", float("nan")),)])
def test_weights_that_make_no_sense(weights: tuple) -> None:
    with pytest.raises(ValueError, match=r"data\.captions"):
        CaptionMix(weights)


def test_a_run_draws_them(tmp_path: Path) -> None:
    media = picture_bytes(gradient())
    samples = [
        ShardSample(f"{n:09d}", "png", media, None if n == 0 else f"short {n}", {} if n == 1 else {"long": f"long {n}"})
        for n in range(12)
    ]
    write_shard(tmp_path / "00000.tar", samples)
    build_index(tmp_path / "00000.tar")
    data = attached(**on_shards(str(tmp_path)), clip_share=0.0, captions={"txt": 0.5, "long": 0.5}, caption_dropout=0.0)
    seen: dict[str, set[str]] = {}
    for _, batch in zip(range(40), data.train_dataloader(), strict=False):
        for key, caption in zip(batch.keys, batch.captions, strict=True):
            seen.setdefault(key[-1], set()).add(caption)
    assert seen.pop("000000000") == {"long 0"} and seen.pop("000000001") == {"short 1"}
    assert all(found == {f"short {int(key)}", f"long {int(key)}"} for key, found in seen.items())
