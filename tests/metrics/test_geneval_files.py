"""GenEval's folder, as its evaluator walks it, and its results.jsonl, written and read back."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmflow.metrics.detector import ShapesDetector, Verdict
from mmflow.metrics.geneval import TASKS
from mmflow.metrics.geneval_files import OfficialResults, layout, read_results, write_layout, write_results
from mmflow.metrics.geneval_scores import geneval_of_store, summary, verdicts_of_store
from mmflow.metrics.scoring import Share
from mmflow.metrics.store import Store
from mmflow.shapes.world import World
from tests.metrics.stores import store_of

WORLD = World(size=32, shapes=("circle", "square", "triangle", "cross"), colors=("red", "green", "blue", "yellow"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two prompts of each task, two pictures each: the first drawn right, the second noise."""
    prompts = [prompt for task in TASKS for prompt in WORLD.prompts(task, "val_iid", 2)]
    made = store_of(tmp_path / "store", [(p["prompt"], p) for p in prompts], images=2, side=32)
    for place, asked in enumerate(made.asked):
        if place % 2 == 0:
            made.write(place, WORLD.illustrate(asked.metadata, 0, place).frames)
    return made


def official_walk(root: Path) -> list[tuple[str, dict]]:
    """The loop of evaluate_images.py: every picture that it would judge, with its metadata."""
    found = []
    for folder in sorted(each for each in root.iterdir() if each.is_dir() and each.name.isdigit()):
        metadata = json.load((folder / "metadata.jsonl").open())
        for image in sorted((folder / "samples").iterdir()):
            if re.match(r"\d+\.png", image.name):
                found.append((str(image), metadata))
    return found


def test_the_official_evaluator_finds_every_picture_with_its_metadata(store: Store, tmp_path: Path) -> None:
    number = write_layout(store, tmp_path / "out")
    walked = official_walk(tmp_path / "out")
    assert number == len(walked) == len(store.asked) == 24
    for place, name in layout(store).items():
        metadata = dict(walked)[str(tmp_path / "out" / name)]
        assert metadata == dict(store.asked[place].metadata)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / name)), store.read(place)[0])
    assert Image.open(tmp_path / "out" / "00000" / "grid.png").size == (64, 32)
    with pytest.raises(ValueError, match="holds pictures already"):
        write_layout(store, tmp_path / "out")


def test_results_written_here_and_read_back_are_the_same_scores(store: Store, tmp_path: Path) -> None:
    detector = ShapesDetector(WORLD)
    said = verdicts_of_store(store, detector, Share())
    write_results(store, said, tmp_path / "results.jsonl", tmp_path / "out")
    rows = read_results(tmp_path / "results.jsonl")
    assert set(rows[0]) == {"filename", "tag", "prompt", "correct", "reason", "metadata", "details"}
    assert rows[0]["correct"] and all(len(box) == 5 for boxes in rows[0]["details"].values() for box in boxes)
    ours = geneval_of_store(store, detector, Share())
    theirs = geneval_of_store(store, OfficialResults(str(tmp_path / "results.jsonl")), Share())
    assert {n.removeprefix("geneval/shapes/"): s for n, s in ours.items()} == {
        n.removeprefix("geneval/"): s for n, s in theirs.items()
    }
    assert ours["geneval/shapes/overall"]["value"] == pytest.approx(0.5, abs=0.1)
    assert ours["geneval/shapes/prompts"]["value"] == 1.0  # one of the two is right


def test_results_that_miss_pictures_or_have_others_are_refused(store: Store, tmp_path: Path) -> None:
    said = dict.fromkeys(range(24), Verdict(True, "", {}))
    path = tmp_path / "results.jsonl"
    write_results(store, said, path, tmp_path / "out")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[1:], lines[1].replace("00000/samples/00001", "00077/samples/00000")]))
    with pytest.raises(ValueError, match=r"1 have no result \(00000/samples/00000\.png\), 1 results have no picture"):
        OfficialResults(str(path)).verdicts(store, [0])
    path.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(ValueError, match=r"line 25.*comes twice"):
        read_results(path)
    path.write_text('{"filename": "x", "tag": "colors"}')
    with pytest.raises(ValueError, match="line 1: lacks prompt, correct"):
        read_results(path)
    path.write_text(lines[0].replace(json.loads(lines[0])["prompt"], "another") + "\n" + "\n".join(lines[1:]))
    with pytest.raises(ValueError, match="prompts differ"):
        OfficialResults(str(path)).verdicts(store, [0])


def test_missing_and_extra_pictures_and_clips_are_not_exported(store: Store, tmp_path: Path) -> None:
    (store.folder / "media" / "grid.png").touch()
    with pytest.raises(ValueError, match="1 files are too many"):
        write_layout(store, tmp_path / "a")
    prompts = [(p["prompt"], p) for p in WORLD.prompts("colors", "val_iid", 1)]
    with pytest.raises(ValueError, match="places 0 are clips"):
        write_layout(store_of(tmp_path / "clips", prompts, frames=3), tmp_path / "b")
    with pytest.raises(ValueError, match="needs prompts with its metadata"):
        write_layout(store_of(tmp_path / "plain", [("a cat", {})]), tmp_path / "c")


def test_golden_table_of_the_paper_through_the_official_aggregation() -> None:
    """SD3's table 4, original captions, from counts of pictures: overall 43.27."""
    counts = {"color_attr": (47, 400), "colors": (269, 376), "position": (26, 400), "counting": (107, 320)}
    counts |= {"single_object": (304, 320), "two_object": (164, 396)}
    judged = [
        ({"tag": tag, "prompt": f"{tag} {i // 4}"}, i < hits) for tag, (hits, n) in counts.items() for i in range(n)
    ]
    found = summary("geneval", judged)
    assert 100 * found["geneval/overall"]["value"] == pytest.approx(43.27, abs=0.005)
    assert round(100 * found["geneval/color_attr"]["value"], 2) == 11.75
