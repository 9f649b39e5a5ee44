"""T2I-CompBench: its rules by hand, its files, and its categories on the shapes world's detector."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mmflow.metrics.compbench import counts_of, numeracy_score, position_score, relation_of, singular, spatial_score
from mmflow.metrics.compbench_files import read_answers, values_of, write_answers, write_layout
from mmflow.metrics.compbench_scores import CompBench, summary
from mmflow.metrics.detector import ShapesDetector
from mmflow.metrics.phrases import noun_phrases
from mmflow.metrics.scoring import Share
from mmflow.shapes.world import World
from tests.metrics.stores import store_of
from tests.redness import Redness


@dataclass(frozen=True)
class Box:
    name: str
    box: tuple[float, float, float, float] = (0.0, 0.0, 10.0, 10.0)
    score: float = 1.0
    color: str = "red"


def at(name: str, x: float, y: float, half: float = 10, score: float = 1.0) -> Box:
    return Box(name, (x - half, y - half, x + half, y + half), score)


def test_positions_as_the_official_evaluator_scores_them() -> None:
    a = at("cat", 100, 100)
    for locality, x, y in (("on the left of", 200, 120), ("on the right of", 10, 90), ("on the top of", 90, 300)):
        assert position_score(locality, a, at("dog", x, y)) == 1.0
        assert position_score(locality, at("dog", x, y), a) == 0.0
    assert position_score("on the bottom of", a, at("dog", 100, 20)) == 1.0
    assert position_score("on the left of", a, at("dog", 150, 160)) == 0.0  # rather above than left
    # 20 x 20 boxes 5 apart: IoU 15 / 25
    assert position_score("on the left of", a, at("dog", 105, 100)) == pytest.approx(0.1 / (15 / 25))
    assert position_score("near", a, at("dog", 240, 900)) == 1.0  # near along one axis is near
    assert position_score("next to", a, at("dog", 400, 300)) == pytest.approx(150 / 300)
    assert position_score("next to", a, at("dog", 400, 300), near=75) == pytest.approx(75 / 300)
    assert position_score("on top of", a, at("dog", 100, 300)) == 0.0  # found by the evaluator, scored by nobody


def test_spatial_scores_are_a_quarter_each_and_half_the_position() -> None:
    prompt = "a man on the left of a traffic light"
    assert relation_of(prompt) == ("person", "on the left of", "traffic light")
    both = [at("person", 50, 50, score=0.8), at("traffic light", 200, 50, score=0.6)]
    assert spatial_score(prompt, both) == pytest.approx(0.25 * 1.4 + 0.5)
    assert spatial_score(prompt, both[::-1]) == spatial_score(prompt, both)
    assert spatial_score(prompt, both[:1]) == 0.0  # 0.2 is below one half
    assert spatial_score(prompt, [at("person", 300, 50), both[1]]) == 0.0
    assert relation_of("two cats and a dog") is None
    with pytest.raises(ValueError, match="none of on side of"):
        spatial_score("two cats", [])


def test_numeracy_gives_half_for_presence_and_half_for_the_number() -> None:
    assert counts_of("two cups, a dog and three knives") == [("cup", 2), ("dog", 1), ("knife", 3)]
    assert [singular(x) for x in ("boxes", "butterflies", "glasses", "buses", "women", "vases", "wine glass")] == [
        "box", "butterfly", "glass", "bus", "woman", "vase", "wine glass"
    ]  # fmt: skip
    cups = [at("cup", 20, 20), at("cup", 60, 20)]
    assert numeracy_score("two cups", cups) == 1.0
    assert numeracy_score("three cups", cups) == 0.5
    assert numeracy_score("two cups and a dog", cups) == 0.5
    assert numeracy_score("two cups", [*cups, at("cup", 20, 20, half=9.9)]) == 1.0  # the same cup, twice
    assert numeracy_score("two cups", [*cups, at("cup", 20, 20, half=3)]) == 1.0  # inside it
    with pytest.raises(ValueError, match="counts nothing"):
        numeracy_score("cups", cups)


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("a green bench and a blue bowl", ["a green bench", "a blue bowl"]),
        ("The fluffy pillow was on the top of the rough blanket.", ["The fluffy pillow", "the rough blanket"]),
        ("rubber band with three metal keys", ["rubber band", "three metal keys"]),
        ("a dog on the left of a cat", ["a dog", "a cat"]),
    ],
)
def test_the_things_of_a_prompt(prompt: str, phrases: list[str]) -> None:
    assert noun_phrases(prompt) == phrases


def test_spacy_is_asked_for_in_words() -> None:
    with pytest.raises(ValueError, match="pip install spacy"):
        noun_phrases("a cat", "en_core_web_none")


WORLD = World(size=64, shapes=("circle", "square", "triangle", "cross"), colors=("red", "green", "blue", "yellow"))
PROMPTS = [
    ("a circle on the left of a square", {"category": "spatial"}),
    ("two circles and a square", {"category": "numeracy"}),
    ("a red circle", {"category": "color"}),
    ("a red circle near a square", {"category": "complex", "kind": "spatialaction"}),
]


def drawn(task: str, wanted: list[dict]) -> np.ndarray:
    return WORLD.illustrate({"tag": task, "prompt": "", "include": wanted, "exclude": []}, 0, 0).frames


def test_every_category_is_judged_in_its_own_way(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", PROMPTS, side=64)
    store.write(
        0,
        drawn(
            "position", [{"class": "square", "count": 1}, {"class": "circle", "count": 1, "position": ["left of", 0]}]
        ),
    )
    store.write(1, drawn("counting", [{"class": "circle", "count": 2}]))
    bench = CompBench(vqa=Redness(), detector=ShapesDetector(WORLD))
    assert bench.absent() is None
    found = bench.of_store(store, Share())
    assert set(found) == {"compbench/spatial", "compbench/numeracy", "compbench/color"}  # complex needs a clip, too
    assert found["compbench/spatial"]["value"] > 0.9
    assert found["compbench/numeracy"]["value"] == pytest.approx(0.5)
    assert bench.of_store(store, Share()) == found
    full = CompBench(vqa=Redness(), detector=ShapesDetector(WORLD), clip=Redness()).of_store(store, Share())
    assert "compbench/complex" in full
    with pytest.raises(ValueError, match="there are none among these"):
        CompBench(clip=Redness()).of_store(store_of(tmp_path / "t", [("a", {})]), Share())
    with pytest.raises(ValueError, match="judges nothing"):
        CompBench()


def test_complex_prompts_must_be_of_a_kind(tmp_path: Path) -> None:
    bench = CompBench(vqa=Redness(), detector=ShapesDetector(WORLD), clip=Redness())
    with pytest.raises(ValueError, match="complex_val_action"):
        bench.of_store(store_of(tmp_path, [("a red circle", {"category": "complex"})]), Share())


def test_the_official_layout_and_its_answers(tmp_path: Path) -> None:
    prompts = [
        ("a red cup", {"category": "color"}),
        ("A red cup", {"category": "color"}),
        ("two cups", {"category": "numeracy"}),
    ]
    store = store_of(tmp_path / "s", prompts, images=2)
    assert write_layout(store, tmp_path / "out") == 6
    names = sorted(path.name for path in (tmp_path / "out" / "color" / "samples").iterdir())
    assert names == ["A red cup_000002.png", "A red cup_000003.png", "a red cup_000000.png", "a red cup_000001.png"]
    write_answers(store, [0.5, 1.0, 0.25, 0.25, None, None], tmp_path / "out")
    path = tmp_path / "out" / "color" / "vqa_result.json"
    rows = [{**row, "answer": str(row["answer"])} for row in json.loads(path.read_text())][
        ::-1
    ]  # theirs is in any order
    path.write_text(json.dumps(rows))
    values = values_of(store, {"color": read_answers(path)})
    assert values == [0.5, 1.0, 0.25, 0.25, None, None]
    assert summary(store, values)["compbench/color"]["value"] == 0.5
    path.write_text(json.dumps(rows[1:]))
    with pytest.raises(ValueError, match=r"1 questions have none \(3\)"):
        values_of(store, {"color": read_answers(path)})
    path.write_text(json.dumps([*rows, rows[0]]))
    with pytest.raises(ValueError, match="answered twice"):
        read_answers(path)


@pytest.mark.parametrize(
    ("prompt", "words"), [("a/b", "is a folder's end"), ("a_b", "ends the prompt"), ("é" * 150, "at most 255 bytes")]
)
def test_prompts_that_cannot_be_names_are_told(prompt: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        write_layout(store_of(tmp_path / "s", [(prompt, {"category": "color"})]), tmp_path / "out")
