"""Prompt lists of the six GenEval tasks and of motion, in the words of the shapes world."""

import numpy as np

from mmflow.shapes.grammar import PLAIN, UNSEEN, Metadata, Scene, metadata, sentence
from mmflow.shapes.splits import Options
from mmflow.shapes.vocabulary import DIRECTIONS, SPEEDS, Motion, Noun

GENEVAL_TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
TASKS = (*GENEVAL_TASKS, "motion")

HELD_OUT_TASKS: dict[str, tuple[str, ...]] = {
    "comp_pair": ("colors", "color_attr"),
    "comp_count": ("counting",),
    "comp_relation": ("position",),
    "comp_bind": ("color_attr",),
    "length": ("two_object", "color_attr"),
    "comp_motion": ("motion",),
    "paraphrase": TASKS,
}
"""The tasks in which a split asks for something that training never showed."""


def _unnamed(shapes: tuple[str, ...]) -> tuple[Noun, ...]:
    return tuple(Noun(shape, "") for shape in shapes)


def _motions(options: Options) -> list[Scene]:
    """One coloured object and each of its motions, with and without a speed."""
    return [
        Scene("one", (noun,), True, motions=(Motion(verb, speed),))
        for noun in options.nouns
        for verb in options.verbs[noun.shape]
        for speed in (SPEEDS if verb in DIRECTIONS else ("",))
    ]


def task_scenes(task: str, split: str, options: Options) -> list[Scene]:
    """Every scene that a split can ask for in a task; colours that the prompt leaves open are "".

    Raises:
        ValueError: if the task is unknown, or the split asks for nothing new in it.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; the tasks are {', '.join(TASKS)}")
    if task not in HELD_OUT_TASKS.get(split, TASKS):
        raise ValueError(f"split {split!r} says nothing of {task}; its tasks are {', '.join(HELD_OUT_TASKS[split])}")
    groups = options.triples if split == "length" else options.pairs
    kind = "triple" if split == "length" else "pair"
    match task:
        case "single_object":
            return [Scene("single", _unnamed((shape,))) for shape in options.colors]
        case "colors":
            return [Scene("single", (noun,), True) for noun in options.nouns]
        case "two_object":
            shapes = dict.fromkeys(tuple(noun.shape for noun in group) for group in groups)
            return [Scene(kind, _unnamed(each)) for each in shapes]
        case "color_attr":
            return [Scene(kind, group, True) for group in groups]
        case "counting":
            return [Scene("count", _unnamed((shape,) * count)) for shape, count in options.counts]
        case "position":
            return [Scene("relation", _unnamed((a, b)), relation=relation) for a, relation, b in options.relations]
    return _motions(options)


def prompt_scenes(rng: np.random.Generator, task: str, split: str, options: Options, n: int) -> list[Metadata]:
    """`n` prompts as GenEval metadata: the task's scenes in random order, over and over if there are fewer than `n`."""
    scenes = task_scenes(task, split, options)
    if not scenes:
        raise ValueError(f"split {split!r} has no scene of task {task} with this vocabulary")
    prefix = "a video of " if task == "motion" else "a photo of "
    result: list[Metadata] = []
    while len(result) < n:
        for place in rng.permutation(len(scenes))[: n - len(result)].tolist():
            scene = scenes[place]
            if split == "paraphrase":
                templates = UNSEEN[scene.kind]
                words = sentence(scene, templates[int(rng.random() * len(templates))])
            else:
                words = prefix + sentence(scene, PLAIN[scene.kind])
            result.append(metadata(scene, words))
    return result
