"""All scores of the shapes world from samples: GenEval's six tasks, overall, and motion, with intervals and chance."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmflow.metrics.detector import ShapesDetector
from mmflow.metrics.geneval import TASKS, Found, exact, judge
from mmflow.metrics.interval import Interval, bootstrap, wilson
from mmflow.metrics.motion import consistency, judge_motion, smooth
from mmflow.shapes.tracking import Track, follow
from mmflow.shapes.world import World

Metadata = Mapping[str, Any]
Frames = NDArray[np.uint8]
Score = dict[str, float | int]


def _look(world: World, frames: Frames, median: bool) -> list[Found]:
    """The objects of a picture, or of the middle frame of a clip that answers a picture's prompt."""
    return ShapesDetector(world, median).objects([frames[len(frames) // 2]])[0]


def _watch(world: World, frames: Frames, median: bool) -> list[Track]:
    return follow(frames, shapes=world.shapes, colors=world.colors, median=median)


def correct(world: World, metadata: Metadata, frames: Frames, median: bool = False) -> tuple[bool, str]:
    """Does a sample do what its prompt asks, and if not, why.

    Args:
        world: whose shapes and colours are looked for.
        metadata: of a prompt of this world.
        frames: uint8 (T, H, W, 3); T >= 2 for the tag `motion`.
        median: filter noise first.
    """
    if metadata["tag"] == "motion":
        return judge_motion(metadata, _watch(world, frames, median))
    return judge(metadata, _look(world, frames, median), count_threshold=ShapesDetector.count_threshold)


class _Ledger:
    """Scores by name and by prompt, in the order in which they come."""

    def __init__(self) -> None:
        self._scores: dict[str, dict[str, list[float]]] = {}

    def add(self, name: str, prompt: str, score: float) -> None:
        self._scores.setdefault(name, {}).setdefault(prompt, []).append(score)

    def prompts(self, name: str) -> list[list[float]]:
        return list(self._scores.get(name, {}).values())

    def rate(self, name: str) -> Interval | None:
        scores = [score for images in self.prompts(name) for score in images]
        return wilson(int(sum(scores)), len(scores)) if scores else None

    def mean(self, name: str) -> Interval | None:
        prompts = self.prompts(name)
        return bootstrap({name: prompts}) if prompts else None

    def macro(self, names: Sequence[str]) -> Interval | None:
        groups = {name: self.prompts(name) for name in names}
        return bootstrap(groups) if all(groups.values()) else None


def score_shapes(
    world: World, samples: Iterable[tuple[Metadata, Frames]], median: bool = False, tasks: Sequence[str] = TASKS
) -> dict[str, Score]:
    """Every score that the samples allow.

    Args:
        world: whose shapes and colours are looked for.
        samples: (metadata of the prompt, uint8 frames (T, H, W, 3)), several per prompt if you like.
        median: filter noise first.
        tasks: what `geneval/overall` is the mean of.

    Returns:
        name -> {value, low, high, n}, values 0..1 with 95 % intervals (Wilson for rates, bootstrap over prompts for
        `geneval/overall`, `geneval/exact` and `motion/consistency`). Names: `geneval/<task>` for each task that has
        samples, `geneval/overall` if all `tasks` have; `geneval/exact` (nothing but the prompt's objects) if all six
        have; `motion/accuracy` (object and motion), `motion/speed` (that and its speed, of the prompts that tell one),
        `motion/consistency`, `motion/smooth` if there are clips.
    """
    ledger = _Ledger()
    for metadata, frames in samples:
        tag, prompt = metadata["tag"], metadata["prompt"]
        if tag == "motion":
            tracks = _watch(world, frames, median)
            ledger.add("motion/accuracy", prompt, judge_motion(metadata, tracks)[0])
            if any("speed" in entry for entry in metadata["include"]):
                ledger.add("motion/speed", prompt, judge_motion(metadata, tracks, speed=True)[0])
            ledger.add("motion/consistency", prompt, consistency(metadata, tracks))
            ledger.add("motion/smooth", prompt, smooth(tracks))
        else:
            found = _look(world, frames, median)
            right, _ = judge(metadata, found, count_threshold=ShapesDetector.count_threshold)
            ledger.add(f"geneval/{tag}", prompt, right)
            ledger.add(f"exact/{tag}", prompt, right and exact(metadata, found))
    result = {
        "geneval/overall": ledger.macro([f"geneval/{task}" for task in tasks]),
        **{f"geneval/{task}": ledger.rate(f"geneval/{task}") for task in TASKS},
        "geneval/exact": ledger.macro([f"exact/{task}" for task in TASKS]),
        "motion/accuracy": ledger.rate("motion/accuracy"),
        "motion/speed": ledger.rate("motion/speed"),
        "motion/consistency": ledger.mean("motion/consistency"),
        "motion/smooth": ledger.rate("motion/smooth"),
    }
    return {name: asdict(interval) for name, interval in result.items() if interval is not None}


def chance(world: World, prompts: Sequence[Metadata], judgements: int = 400, seed: int = 0) -> float:
    """What a model scores that draws perfectly but does not read: correct pictures of any of the task's prompts.

    Args:
        prompts: of one task; at least two different ones.
        judgements: how many pairs of a prompt, in turn, and a picture of a prompt drawn blindly from the list.
        seed: of the choice and of the pictures.

    Returns:
        Share judged correct, 0..1.

    Raises:
        ValueError: if all prompts are the same.
    """
    texts = list(dict.fromkeys(prompt["prompt"] for prompt in prompts))
    if len(texts) < 2:
        raise ValueError(f"chance needs at least two different prompts, got {texts}")
    by_text = {prompt["prompt"]: prompt for prompt in prompts}
    rng = np.random.Generator(np.random.Philox(key=seed))
    hits = 0
    for turn in range(judgements):
        drawn = by_text[texts[int(rng.integers(len(texts)))]]
        hits += correct(world, by_text[texts[turn % len(texts)]], world.illustrate(drawn, seed, turn).frames)[0]
    return hits / judgements
