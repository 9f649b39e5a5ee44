"""What is asked of a model, and that a perfect and a blind answer get the scores they must."""

from collections import Counter

import numpy as np
import pytest

from mmflow.batch import Request
from mmflow.metrics.protocol import IID, MOTION, Protocol, has_prompts, results
from mmflow.shapes import GENEVAL_TASKS, HELD_OUT_TASKS, World

WORLD = World(
    size=32,
    shapes=("circle", "square", "triangle", "cross"),
    colors=("red", "green", "blue", "yellow", "white", "black"),
    max_count=3,
    frames=4,
)
PROTOCOL = Protocol(prompts=5, images=2, held_out_prompts=3)


def test_every_task_is_asked_as_often_as_it_says() -> None:
    questions = PROTOCOL.questions(WORLD, clips=True)
    counts = Counter((q.split, q.metadata["tag"]) for q in questions)
    expected = {(IID, task): 10 for task in (*GENEVAL_TASKS, MOTION)}
    expected |= {
        (split, task): 6 for split, tasks in HELD_OUT_TASKS.items() for task in tasks if has_prompts(WORLD, task, split)
    }
    assert counts == expected and {split for split, _ in counts} == {IID, *HELD_OUT_TASKS}
    assert [q.request.index for q in questions] == list(range(len(questions)))
    for q in questions:
        frames = WORLD.frames if q.metadata["tag"] == MOTION else 1
        assert q.request == Request(q.request.index, q.metadata["prompt"], q.request.seed, frames, 32, 32)


def test_no_image_is_asked_for_twice() -> None:
    """A small vocabulary repeats its prompts; each time its noise is another, and the seeds have no gap."""
    questions = Protocol(prompts=30, images=2, held_out_prompts=0, seed=5).questions(WORLD, clips=False)
    asked = Counter((q.request.prompt, q.request.seed) for q in questions)
    assert set(asked.values()) == {1}
    for prompt, times in Counter(q.request.prompt for q in questions).items():
        assert sorted(seed for p, seed in asked if p == prompt) == list(range(5, 5 + times))
    assert max(Counter(q.request.prompt for q in questions).values()) > 2


def test_without_clips_and_held_out_splits_there_are_six_tasks() -> None:
    questions = Protocol(prompts=2, images=1, held_out_prompts=0).questions(WORLD, clips=False)
    assert [q.metadata["tag"] for q in questions] == [task for task in GENEVAL_TASKS for _ in range(2)]


def test_the_same_seed_asks_the_same() -> None:
    asked = [[q.request for q in Protocol(5, 1, 0, seed).questions(WORLD, clips=True)] for seed in (0, 0, 1)]
    assert asked[0] == asked[1] != asked[2]


@pytest.mark.parametrize(("task", "split", "has"), [("counting", "comp_count", True), ("colors", "comp_count", False)])
def test_a_split_has_prompts_of_its_own_tasks_only(task: str, split: str, has: bool) -> None:
    assert has_prompts(WORLD, task, split) == has


def test_the_truth_scores_one_everywhere() -> None:
    questions = PROTOCOL.questions(WORLD, clips=True)
    answers = [(q, WORLD.illustrate(q.metadata, 3, q.request.index).frames) for q in questions]
    scores = results(WORLD, answers)
    names = {f"geneval/{task}" for task in (*GENEVAL_TASKS, "overall")} | {"motion/accuracy"}
    assert names <= set(scores)
    for name in names:
        score = scores[name]
        assert score["value"] == 1 and 0 <= score["chance"] < 0.6
        assert all(held["value"] == 1 and held["n"] == 6 for held in score.get("held_out", {}).values()) or (
            name == "geneval/overall"
        )
        if name != "geneval/overall":
            assert score["n"] == 10
    chances = [scores[f"geneval/{task}"]["chance"] for task in GENEVAL_TASKS]
    assert scores["geneval/overall"]["chance"] == pytest.approx(sum(chances) / 6)
    held = {split: set(tasks) for split, tasks in HELD_OUT_TASKS.items()}
    for task in GENEVAL_TASKS:
        splits = {split for split, tasks in held.items() if task in tasks and has_prompts(WORLD, task, split)}
        assert set(scores[f"geneval/{task}"].get("held_out", {})) == splits


def test_a_blank_scores_nothing_and_what_was_not_asked_is_not_there() -> None:
    questions = [q for q in PROTOCOL.questions(WORLD, clips=True) if (q.split, q.metadata["tag"]) == (IID, MOTION)]
    blank = np.full((4, 32, 32, 3), 128, np.uint8)
    scores = results(WORLD, [(q, blank) for q in questions])
    assert scores["motion/accuracy"]["value"] == 0 and not any(name.startswith("geneval") for name in scores)


def test_nothing_asked_is_nothing_scored() -> None:
    assert results(WORLD, []) == {}
