"""Generate once, score later: nothing is lost, nothing is made twice, and nothing is skipped silently."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmflow.metrics.prompt_set import PromptSet, prompt_set, read_prompt_file
from mmflow.metrics.store import Identity, Store, require_comparable

RNG = np.random.default_rng(0)
PROMPTS: PromptSet = prompt_set(
    "two/things",
    [("a red circle", {"tag": "colors"}), ("a blue square moving left", {"tag": "motion"}), ("a red circle", {})],
    lambda metadata: (4 if metadata.get("tag") == "motion" else 1, 8, 6),
    images=2,
)
IDENTITY = Identity(
    {"step": 5, "weights": "ema", "digest": "0123"},
    {"name": PROMPTS.name, "digest": PROMPTS.digest(), "n": len(PROMPTS.asked)},
    {"num_steps": 4, "guidance_scale": 3.0},
)


def filled(root: Path) -> tuple[Store, list[np.ndarray]]:
    store = Store.create(root, IDENTITY, PROMPTS)
    media = [RNG.integers(0, 256, (a.request.frames, 8, 6, 3), dtype=np.uint8) for a in store.asked]
    for index, frames in enumerate(media):
        store.write(index, frames)
    return store, media


def test_each_image_of_a_prompt_has_its_own_seed_and_a_repeated_prompt_counts_on() -> None:
    asked = [(a.request.prompt, a.request.seed) for a in PROMPTS.asked]
    assert asked == [
        *(("a red circle", seed) for seed in (0, 1)),
        *(("a blue square moving left", seed) for seed in (0, 1)),
        *(("a red circle", seed) for seed in (2, 3)),
    ]
    assert [a.request.index for a in PROMPTS.asked] == list(range(6))


def test_what_is_kept_comes_back_exactly_pictures_and_clips(tmp_path: Path) -> None:
    store, media = filled(tmp_path)
    again = Store.open(store.folder)
    assert again == store
    for kept, frames in zip(again.media(), media, strict=True):
        assert np.array_equal(kept, frames)
    again.require_whole()


def test_a_store_is_named_by_all_it_depends_on() -> None:
    others = [
        replace(IDENTITY, checkpoint={**IDENTITY.checkpoint, "digest": "4567"}),
        replace(IDENTITY, prompts={**IDENTITY.prompts, "digest": "89ab"}),
        replace(IDENTITY, sampling={**IDENTITY.sampling, "guidance_scale": 3.5}),
    ]
    assert len({IDENTITY.key(), *(each.key() for each in others)}) == 4
    assert IDENTITY.key().startswith("step-000000005-ema-two_things-")


def test_missing_extra_and_damaged_samples_are_told(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    store.path(1).unlink()
    store.path(4).unlink()
    (store.folder / "media" / "grid.png").touch()
    assert store.missing() == [1, 4] and store.extra() == ["grid.png"]
    with pytest.raises(ValueError, match=r"2 of 6 samples are missing \(places 1, 4\) and 1 files are too many"):
        store.require_whole()
    store.path(0).write_bytes(store.path(0).read_bytes()[:40])
    with pytest.raises(ValueError, match=r"00000\.png is damaged"):
        store.read(0)
    with pytest.raises(ValueError, match="sample 2 must be 4 frames"):
        store.write(2, np.zeros((3, 8, 6, 3), np.uint8))
    with pytest.raises(ValueError, match="no store of samples"):
        Store.open(tmp_path)


def test_scores_are_kept_with_their_identity_and_count_for_no_other(tmp_path: Path) -> None:
    store, _ = filled(tmp_path)
    judge = {"network": "tiny", "weights": "aa"}
    store.keep_scores("clip_score/tiny", judge, {"summary": {"value": 0.5}, "values": [0.5] * 6})
    kept = Store.open(store.folder).scores("clip_score/tiny", judge)
    assert kept is not None and kept["values"] == [0.5] * 6 and kept["n"] == 6
    assert kept["samples"]["checkpoint"]["digest"] == "0123"
    assert store.scores("clip_score/tiny", {**judge, "weights": "bb"}) is None
    assert store.scores("other", judge) is None


def test_results_of_different_identity_are_refused_in_one_table(tmp_path: Path) -> None:
    def kept(judge: str = "a", steps: int = 4, step: int = 5) -> dict:
        samples = {"prompts": {"digest": "p"}, "sampling": {"num_steps": steps}, "checkpoint": {"step": step}}
        return {"judge": {"weights": judge}, "samples": samples}

    require_comparable([kept(), kept(step=10)], ["one", "two"])
    with pytest.raises(ValueError, match=r"(?s)one and two do not compare, their sampling differ.*num_steps: 4 and 8"):
        require_comparable([kept(), kept(steps=8)], ["one", "two"])
    with pytest.raises(ValueError, match=r"(?s)their judge differ.*weights: a and b"):
        require_comparable([kept(), kept(judge="b")], ["one", "two"])


FILES = {
    "prompts.txt": ("a cat\n\na dog", ["a cat", "a dog"]),
    "evaluation_metadata.jsonl": ('{"tag": "colors", "prompt": "a red cup"}\n', ["a red cup"]),
    "anime.json": ('["a girl", "a boy"]', ["a girl", "a boy"]),
    "VBench_full_info.json": ('[{"prompt_en": "a boat", "dimension": ["color"]}]', ["a boat"]),
    "PartiPrompts.tsv": ('Prompt\tCategory\na "sign\tSigns\n', ['a "sign']),
}


@pytest.mark.parametrize("name", FILES)
def test_prompt_files_of_the_benchmarks(name: str, tmp_path: Path) -> None:
    text, expected = FILES[name]
    (tmp_path / name).write_text(text)
    found = read_prompt_file(tmp_path / name)
    assert [prompt for prompt, _ in found] == expected
    if name.endswith(".jsonl"):
        assert found[0][1]["tag"] == "colors"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "\n", "holds no prompt"),
        ("a.jsonl", '{"tag": "x"}', "entry 1"),
        ("a.json", "[", "not JSON"),
        ("a.tsv", "Text\tb\nx\ty\n", "no column `Prompt`"),
        ("a.csv", "x", "no column `prompt`"),
        ("a.xml", "x", ".txt, .jsonl"),
    ],
)
def test_bad_prompt_files_are_named(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as said:
        read_prompt_file(tmp_path / name)
    assert words in str(said.value) and name in str(said.value)


def test_the_digest_is_of_all_that_is_asked() -> None:
    other = PromptSet(PROMPTS.name, PROMPTS.asked[:-1])
    assert other.digest() != PROMPTS.digest() == PromptSet("another name", PROMPTS.asked).digest()
    assert json.loads(json.dumps(IDENTITY.prompts))["n"] == 6
