"""VBench: totals of two published models, the two dimensions that are computed here, its files."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmflow.metrics.random_features import RandomFeatures
from mmflow.metrics.scoring import Share, score_store
from mmflow.metrics.vbench import DIMENSIONS, Consistency, TemporalFlicker, aggregate, consistency
from mmflow.metrics.vbench_files import read_results, write_layout
from tests.metrics import stores
from tests.metrics.stores import store_of

ORDER = [
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "appearance_style",
    "temporal_style",
    "overall_consistency",
]
PUBLISHED = {
    "CogVideoX-5B": (
        "96.23 96.52 98.66 96.92 70.97 61.98 62.90 85.23 62.11 99.40 82.81 66.35 53.20 24.91 25.38 27.59",
        (82.76, 77.04, 81.61),
    ),
    "LTX-Video": (
        "96.56 97.20 99.34 98.96 54.35 59.81 60.28 83.45 45.43 92.80 81.45 65.43 51.07 21.47 22.62 25.19",
        (82.30, 70.79, 80.00),
    ),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_totals_follow_from_their_dimensions(model: str) -> None:
    text, expected = PUBLISHED[model]
    found = aggregate(dict(zip(ORDER, (float(x) / 100 for x in text.split()), strict=True)))
    assert [100 * found[name] for name in ("quality", "semantic", "total")] == pytest.approx(expected, abs=0.01)
    assert tuple(ORDER) == DIMENSIONS


def test_parts_have_no_total_and_strange_values_are_refused() -> None:
    quality = dict.fromkeys(DIMENSIONS[:7], 0.9)
    assert set(aggregate(quality)) == {"quality"} and aggregate({"color": 0.5}) == {}
    with pytest.raises(ValueError, match=r"lie in 0\.\.1"):
        aggregate({"overall_consistency": 27.59})
    with pytest.raises(ValueError, match="no dimension colour"):
        aggregate({"colour": 0.5})


def test_flicker_and_consistency_by_hand(tmp_path: Path) -> None:
    still = np.full((4, 16, 16, 3), 100, np.uint8)
    jump = still.copy()
    jump[2:] = 151
    flicker = TemporalFlicker()
    assert flicker.score([still, jump], ["", ""]).tolist() == [1.0, (255 - 51 / 3) / 255]
    x = np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    assert consistency(x) == pytest.approx(((0.6 + 0.6) + (0.0 + 0.0)) / 2 / 2)  # below 0 counts 0
    same = Consistency(RandomFeatures())
    assert same.score([still], [""])[0] == pytest.approx(1.0) and same.name.startswith("vbench/subject_consistency/")
    with pytest.raises(ValueError, match="at least 2 frames"):
        consistency(x[:1])
    clips = store_of(tmp_path / "clips", [("a cat", {})], images=2, frames=3)
    assert set(score_store(clips, flicker, Share())) == {"vbench/temporal_flickering/clips"}
    with pytest.raises(ValueError, match="holds pictures only"):
        score_store(store_of(tmp_path / "pictures", [("a cat", {})]), flicker, Share())


def test_clips_are_named_by_their_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path / "s", [("A cat", {}), ("a cat", {})], images=2, frames=2)
    written: dict[str, np.ndarray] = {}
    assert write_layout(store, tmp_path / "out", lambda path, frames: written.setdefault(path.name, frames)) == 4
    assert list(written) == ["A cat-0.mp4", "A cat-1.mp4", "a cat-0.mp4", "a cat-1.mp4"]
    monkeypatch.setattr("mmflow.metrics.prompt_names.folds_case", lambda folder: True)
    with pytest.raises(ValueError, match=r"'A cat' and 'a cat' would have the same name on this disk"):
        write_layout(store, tmp_path / "out", lambda *_: None)
    with pytest.raises(ValueError, match="places 0 are pictures"):
        write_layout(stores.store_of(tmp_path / "p", [("a", {})]), tmp_path / "q", lambda *_: None)


def test_results_of_several_files_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    first, second = tmp_path / "a_eval_results.json", tmp_path / "b.json"
    first.write_text(json.dumps({"color": [0.8, [{"video_path": "x", "video_results": 1}]], "scene": [0.5, []]}))
    second.write_text(json.dumps({"object_class": [0.9, []]}))
    assert read_results([first, second]) == {"color": 0.8, "scene": 0.5, "object_class": 0.9}
    with pytest.raises(ValueError, match="color has been read before"):
        read_results([first, first])
    for text, words in (
        ("[]", "an object"),
        ("{", "no results"),
        ('{"colour": [1]}', "is no score"),
        ('{"color": "x"}', "is no score"),
    ):
        second.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_results([second])
