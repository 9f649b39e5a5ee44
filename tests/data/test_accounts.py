"""Every item of the index in exactly one count: sums match the index, the plan and the buckets, also after a stop."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from media import make_shards
from test_module import attached, on_shards

from mmflow.data.module import FlowData
from mmflow.data.transform import cut_away
from mmflow.train.accounts import account_lines, account_table


def test_what_a_crop_leaves_out() -> None:
    assert cut_away((32, 48), (16, 24), (0.3, 0.9)) == (0.0, 0.0, False)
    top, left, is_part = cut_away((30, 60), (15, 15), (1.0, 0.5))
    assert (top, left, is_part) == (0.0, pytest.approx(30.0), True)
    assert cut_away((1000, 1001), (16, 16), (0.5, 0.5))[2] is False, "less than a pixel of the result"


def trained(data: FlowData, steps: int) -> dict:
    for _, batch in zip(range(steps), data.train_dataloader(), strict=False):
        data.on_after_batch_transfer(batch, 0)
    summary = data.ledger.summary()
    return summary | data.mix.accounts(summary["fates"], data.position)


def test_the_books_balance(tmp_path: Path) -> None:
    """19 items; the tar of 9 of them goes before it is read; 8 places are dealt, so some are not reached."""
    folder = make_shards(tmp_path / "shards", pictures=[9, 7], clips=[1, 2])
    data = attached(**{**on_shards(str(folder)), "fps": 2.0}, clip_share=0.25, max_bad_fraction=1.0)
    (folder / "00001.tar").rename(tmp_path / "00001.tar")
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    shapes = [tuple(p.shape[2:]) for p, e in zip(batch.pixels, batch.eps, strict=True) for _ in range(len(e))]
    kept = [*zip(batch.keys, shapes, strict=True), *((hole.key, hole.shape) for hole in batch.holes)]
    summary = data.ledger.summary()
    summary |= data.mix.accounts(summary["fates"], data.position)
    assert summary["balanced"] and sum(number for *_, number in summary["fates"]) == 8
    for medium, indexed in (("picture", 16), ("clip", 3)):
        source = summary["sources"][f"shards/{medium}"]
        own = [key for key, shape in kept if (shape[0] == 1) == (medium == "picture")]
        assert source["indexed"] == indexed == source["samples"] + source["held_out"] + source["not_asked"]
        assert source["visits"] == len(own) == sum(source["fates"].values())
        assert source["not_reached"] == indexed - len(set(own))
        assert source["fates"].get("missing", 0) == sum(key[1] == "00001" for key in own)
    buckets = Counter({bucket: 0 for _, bucket, *_ in summary["fates"]})
    for _, bucket, _, number in summary["fates"]:
        buckets[bucket] += number
    assert buckets == Counter("x".join(map(str, shape)) for _, shape in kept)
    assert account_table(summary).row_count == len(buckets)
    assert any("16 in the index" in line and "not reached" in line for line in account_lines(summary))


def test_fates_say_what_of_a_file_was_used(tmp_path: Path) -> None:
    """Pictures of 20 x 40 fit the bucket of 2 : 1, those of 50 x 40 do not; clips last 2 s, of which 0.8 are taken."""
    folder = make_shards(tmp_path, pictures=[6], clips=[1])
    aspects = {**on_shards(str(folder)), "resolution": 34, "aspects": [2.0, 1.0], "multiple": 2}
    data = attached(**aspects, clip_share=0.2, batch_size=10)
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(data.encoded(batch).conditioning.framed, batch.framed), "a backbone may condition on it"
    fates = Counter((key[-1], fate) for key, fate in zip(batch.keys, batch.fates, strict=True))
    assert {fate for (key, fate) in fates if key == "000000006"} == {"cut_short"}
    framed = dict(zip(batch.keys, batch.framed.tolist(), strict=True))
    for key, fate in zip(batch.keys, batch.fates, strict=True):
        if fate != "cut_short":
            height, width, top, left = framed[key]
            assert fate == ("cropped" if height == 50 else "whole") and width == 40
            assert (top > 0) == (fate == "cropped") and left == pytest.approx(0, abs=0.5)


def test_counts_go_on_after_a_stop(tmp_path: Path) -> None:
    settings = on_shards(str(make_shards(tmp_path, pictures=[6], clips=[1])))
    whole = trained(attached(**settings), 4)
    first = attached(**settings)
    trained(first, 2)
    state = json.loads(json.dumps(first.state_dict()))
    second = attached(**settings)
    second.load_state_dict(state)
    assert trained(second, 2) == whole and whole["balanced"]
