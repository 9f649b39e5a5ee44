"""What is asked of a model of the shapes world, and how the answers become `results.json`."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmflow.batch import Request
from mmflow.metrics.shapes_scores import Metadata, chance, score_shapes
from mmflow.shapes.prompts import GENEVAL_TASKS, HELD_OUT_TASKS
from mmflow.shapes.world import World

IID = "val_iid"
MOTION = "motion"
Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Question:
    """One picture or clip to make, and what it will be judged by."""

    split: str
    metadata: Metadata
    request: Request


@dataclass(frozen=True)
class Protocol:
    """How much is asked.

    Attributes:
        prompts: per task, of scenes like those of training.
        images: per prompt.
        held_out_prompts: per task and held-out split; 0 asks none.
        seed: of the choice of prompts and of the first image's noise.
        tasks: of pictures; a run too small for GenEval's six can be asked for some.
    """

    prompts: int = 100
    images: int = 4
    held_out_prompts: int = 100
    seed: int = 0
    tasks: tuple[str, ...] = GENEVAL_TASKS

    def questions(self, world: World, clips: bool) -> list[Question]:
        """All of them, those of pictures first; `clips` adds motion."""
        tasks = (*self.tasks, *((MOTION,) if clips else ()))
        asked = [(IID, task, self.prompts) for task in tasks]
        if self.held_out_prompts:
            asked += [
                (split, task, self.held_out_prompts)
                for split, held in HELD_OUT_TASKS.items()
                for task in tasks
                if task in held and has_prompts(world, task, split)
            ]
        questions: list[Question] = []
        seen: Counter[tuple[str, str]] = Counter()
        for split, task, num in asked:
            frames = world.frames if task == MOTION else 1
            for metadata in world.prompts(task, split, num, self.seed):
                for _ in range(self.images):
                    # A small vocabulary repeats its prompts; each time is another image.
                    image, prompt = seen[split, metadata["prompt"]], metadata["prompt"]
                    seen[split, prompt] += 1
                    request = Request(len(questions), prompt, self.seed + image, frames, world.size, world.size)
                    questions.append(Question(split, metadata, request))
        return questions


def has_prompts(world: World, task: str, split: str) -> bool:
    """Whether a split holds a scene of this task in this vocabulary."""
    try:
        world.prompts(task, split, 1)
    except ValueError:
        return False
    return True


def results(world: World, answers: Iterable[tuple[Question, Frames]], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Scores by name: value, low, high, n, chance, and held_out: the same of each held-out split that has the task.

    `chance` is the score of a model that draws perfectly and does not read; overall's is the mean of the six.
    """
    by_split: dict[str, list[tuple[Metadata, Frames]]] = {}
    for question, frames in answers:
        by_split.setdefault(question.split, []).append((question.metadata, frames))
    scores: dict[str, dict[str, Any]] = {
        name: dict(score) for name, score in score_shapes(world, by_split.pop(IID, [])).items()
    }
    names = {**{task: f"geneval/{task}" for task in GENEVAL_TASKS}, MOTION: "motion/accuracy"}
    chances = {
        task: chance(world, world.prompts(task, IID, 50, seed), judgements=200, seed=seed)
        for task, name in names.items()
        if name in scores
    }
    for task, value in chances.items():
        scores[names[task]]["chance"] = value
    if "geneval/overall" in scores:
        scores["geneval/overall"]["chance"] = sum(chances[task] for task in GENEVAL_TASKS) / len(GENEVAL_TASKS)
    for split, samples in by_split.items():
        for name, score in score_shapes(world, samples).items():
            if name in scores:
                scores[name].setdefault("held_out", {})[split] = dict(score)
    return scores
