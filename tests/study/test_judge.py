"""The study's judge with a CLIP by path: the same columns on its features, and CLIP score."""

import json

import numpy as np
import pytest

from mmflow.metrics.clip_score import ClipFeatures, ClipScore
from mmflow.metrics.distance import frechet_distance, kernel_distance
from mmflow.metrics.shapes_scores import chance
from mmflow.shapes.world import World
from mmflow.study.judge import ShapesJudge
from mmflow.study.plan import JudgeSettings
from tests.metrics.published import tiny_clip

WORLD = World(size=32, shapes=("circle", "square", "triangle", "cross"), colors=("red", "green", "blue", "yellow"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_clip(tmp_path_factory.mktemp("weights") / "tiny-clip", size=32))


def test_with_a_clip_its_score_and_distances_stand_beside_the_others(clip: str) -> None:
    judge = ShapesJudge(WORLD, JudgeSettings(prompts=2, images=1, clip=clip))
    asked, reference = judge.questions(), judge.reference()
    made = [WORLD.illustrate(question.metadata, 7, i).frames for i, question in enumerate(asked)]
    numbers = judge(made, reference)
    plain = ShapesJudge(WORLD, JudgeSettings(prompts=2, images=1))
    without = plain(made, plain.reference())
    assert {name: numbers[name] for name in without} == without and "clip_score" not in without
    pictures, prompts = np.concatenate(made), [question.request.prompt for question in asked]
    assert numbers["clip_score"] == pytest.approx(ClipScore(clip).of_pictures(pictures, prompts).mean())
    features = ClipFeatures(clip)(pictures)
    assert numbers["clip_kernel"] == pytest.approx(kernel_distance(features, reference["clip_"]))
    with pytest.warns(UserWarning, match="mostly bias"):
        assert numbers["clip_frechet"] == pytest.approx(frechet_distance(features, reference["clip_"]))
    assert min(numbers[f"clip_{name}_error"] for name in ("score", "kernel", "frechet")) > 0
    assert judge.identity()["clip_network"]["network"] == "tiny-clip" and "clip" not in plain.identity()
    json.dumps(judge.identity())


def test_a_study_may_ask_for_some_of_the_tasks_only() -> None:
    judge = ShapesJudge(WORLD, JudgeSettings(prompts=4, images=1, tasks=("colors", "counting")))
    asked = judge.questions()
    assert {question.metadata["tag"] for question in asked} == {"colors", "counting"} and len(asked) == 8
    made = [WORLD.illustrate(question.metadata, 7, i).frames for i, question in enumerate(asked)]
    blank = [np.full_like(f, 128) if q.metadata["tag"] == "colors" else f for q, f in zip(asked, made, strict=True)]
    numbers = judge(blank, judge.reference())
    assert (numbers["geneval/colors"], numbers["geneval/counting"], numbers["score"]) == (0, 1, 0.5)
    assert "geneval/position" not in numbers
    assert judge.identity()["tasks"] == ["colors", "counting"]
    assert "tasks" not in ShapesJudge(WORLD, JudgeSettings()).identity()


def test_chance_is_the_mean_over_the_tasks() -> None:
    judge = ShapesJudge(WORLD, JudgeSettings(prompts=8, images=1, tasks=("colors", "counting")))
    asked = [question.metadata for question in judge.questions()]
    each = [chance(WORLD, [prompt for prompt in asked if prompt["tag"] == task]) for task in judge.tasks]
    assert judge.chance() == sum(each) / 2 and all(0 < value < 0.6 for value in each)


@pytest.mark.parametrize("tasks", [("colours",), ()])
def test_tasks_that_there_are_not_are_named(tasks: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="some of single_object, two_object"):
        JudgeSettings(tasks=tasks)
