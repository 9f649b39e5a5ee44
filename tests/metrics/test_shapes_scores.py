import copy

import numpy as np
import pytest

from mmflow.metrics.shapes_scores import chance, correct, score_shapes
from mmflow.shapes import GENEVAL_TASKS, HELD_OUT_TASKS, TASKS, World
from mmflow.shapes.vocabulary import MIRROR

SMALL = World(
    size=32,
    shapes=("circle", "square", "triangle", "cross"),
    colors=("red", "green", "blue", "yellow", "white", "black"),
    max_count=3,
    frames=8,
)
WORLDS = pytest.mark.parametrize("world", [World(frames=8), SMALL], ids=["full", "small"])


@WORLDS
def test_the_truth_scores_one(world: World) -> None:
    prompts = [prompt for task in TASKS for prompt in world.prompts(task, "val_iid", 25)]
    scores = score_shapes(world, ((p, world.illustrate(p, 5, i).frames) for i, p in enumerate(prompts)))
    names = {f"geneval/{task}" for task in (*GENEVAL_TASKS, "overall", "exact")}
    assert set(scores) == names | {f"motion/{name}" for name in ("accuracy", "speed", "consistency", "smooth")}
    assert all(score["value"] == 1 for score in scores.values()), scores
    assert scores["geneval/overall"]["n"] == 150 and scores["motion/accuracy"]["n"] == 25
    assert scores["geneval/colors"]["low"] == pytest.approx(0.867, abs=1e-3)


@pytest.mark.parametrize("split", [split for split in HELD_OUT_TASKS if split != "paraphrase"])
def test_the_truth_scores_one_on_what_is_held_out(split: str) -> None:
    for task in HELD_OUT_TASKS[split]:
        for index, prompt in enumerate(SMALL.prompts(task, split, 10)):
            assert correct(SMALL, prompt, SMALL.illustrate(prompt, 6, index).frames) == (True, "")


def mutations(prompt: dict) -> list[dict]:
    """Metadata of pictures that are wrong by one word: a colour, a shape, a count, a relation or a motion."""
    changed = []
    for index, entry in enumerate(prompt["include"]):
        used = {each["class"] for each in prompt["include"]}
        other = next(shape for shape in SMALL.shapes if shape not in used)
        swaps = [{"class": other}]
        if "color" in entry:
            colors = {each.get("color") for each in prompt["include"]}
            swaps.append({"color": next(color for color in SMALL.colors if color not in colors)})
        if "position" in entry:
            swaps.append({"position": [MIRROR[entry["position"][0]], 0]})
        if prompt["tag"] == "counting":
            swaps += [{"count": entry["count"] + 1}, {"count": entry["count"] - 1}]
        if "motion" in entry:
            swaps.append({"motion": "left" if entry["motion"] == "right" else "right"})
        for swap in swaps:
            mutant = copy.deepcopy(prompt)
            mutant["include"][index].update(swap)
            changed.append(mutant)
    return changed


@pytest.mark.parametrize("task", TASKS)
def test_one_wrong_thing_makes_it_wrong(task: str) -> None:
    for index, prompt in enumerate(SMALL.prompts(task, "val_iid", 8)):
        for mutant in mutations(prompt):
            frames = SMALL.illustrate(mutant, 7, index).frames
            assert correct(SMALL, mutant, frames)[0] or task == "counting"
            assert not correct(SMALL, prompt, frames)[0], (prompt["prompt"], mutant)


def test_overall_needs_all_six_tasks() -> None:
    prompts = SMALL.prompts("colors", "val_iid", 4)
    scores = score_shapes(SMALL, [(p, SMALL.illustrate(p, 0).frames) for p in prompts])
    assert set(scores) == {"geneval/colors"}
    assert score_shapes(SMALL, []) == {}


def test_nothing_scores_nothing() -> None:
    blank = np.full((8, 32, 32, 3), 128, np.uint8)
    prompts = [prompt for task in TASKS for prompt in SMALL.prompts(task, "val_iid", 3)]
    scores = score_shapes(SMALL, [(p, blank) for p in prompts])
    assert all(score["value"] == 0 for score in scores.values())


def test_chance_is_what_the_vocabulary_says() -> None:
    world = World(frames=8)
    assert chance(world, world.prompts("single_object", "val_iid", 7), 210) == pytest.approx(1 / 7, abs=0.08)
    assert chance(world, world.prompts("color_attr", "val_iid", 60), 120) < 0.05
    assert chance(world, world.prompts("motion", "val_iid", 30), 30) < 0.2
    with pytest.raises(ValueError, match="two different prompts"):
        chance(world, world.prompts("colors", "val_iid", 1))
