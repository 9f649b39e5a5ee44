"""The runs of a scaling study: what each size had learned after every stretch of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmflow.study.plan import Study
from mmflow.study.records import known
from mmflow.study.scaling import MIN_SIZES, Estimate, Fit, Floats, fit_power_law, fit_size_and_data
from mmflow.study.table import curves

MEDIA = ("pictures", "clips")


@dataclass(frozen=True)
class Checkpoint:
    """What a run had come to.

    Attributes:
        step: optimizer steps done.
        samples: seen.
        flops: spent.
        losses: by medium.
        scores: GenEval's overall score and the kernel distance, where it was scored.
    """

    step: int
    samples: int
    flops: float
    losses: dict[str, float]
    scores: dict[str, float]


@dataclass(frozen=True)
class SizeRun:
    """One size.

    Attributes:
        label: on the study's axis.
        seed: of training.
        parameters: all that learn.
        seconds: of training.
        checkpoints: in the order of steps.
    """

    label: str
    seed: str
    parameters: int
    seconds: float
    checkpoints: tuple[Checkpoint, ...]

    def curve(self, medium: str) -> tuple[Floats, Floats]:
        """FLOPs and losses."""
        flops = np.array([each.flops for each in self.checkpoints])
        return flops, np.array([each.losses[medium] for each in self.checkpoints])

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step."""
        return next(each for each in self.checkpoints if each.step == step)


def read_runs(study: Study) -> list[SizeRun]:
    """All runs of a study that are whole, smallest first.

    Raises:
        ValueError: if the study has one size, has no curve, or nothing was run.
    """
    if len(study.axis(study.rows)) < MIN_SIZES + 1:
        raise ValueError(
            f"a scaling study needs {MIN_SIZES + 1} sizes, {MIN_SIZES} to fit and one to predict; the axis "
            f"{study.rows!r} has {', '.join(study.axis(study.rows))}"
        )
    if not study.curve:
        raise ValueError("a scaling study compares checkpoints: set `curve: true`")
    rows = curves(study)
    runs = []
    for cell, results in known(study):
        own = [row for row in rows if all(row[name] == text for name, text in cell.labels.items())]
        if results is None or not own:
            continue
        batch = int({**results.controls, **cell.overrides}["data.batch_size"])
        found = [_checkpoint(row, results.media[row["step"]], batch) for row in own]
        label = cell.labels[study.rows]
        runs.append(SizeRun(label, cell.labels["seed"], int(own[0]["parameters"]), results.seconds, tuple(found)))
    if len({run.label for run in runs}) < MIN_SIZES + 1:
        raise ValueError(
            f"{study.out}: {len({run.label for run in runs})} sizes are done, {MIN_SIZES + 1} are needed: "
            "`study.py run --config STUDY.yaml` goes on"
        )
    return sorted(runs, key=lambda run: (run.parameters, run.seed))


def _checkpoint(row: dict[str, Any], losses: dict[str, float], batch: int) -> Checkpoint:
    scores = {name: float(row[name]) for name in ("score", "kernel") if row.get(name) is not None}
    return Checkpoint(int(row["step"]), int(row["step"]) * batch, float(row["flops"]), losses, scores)


@dataclass(frozen=True)
class Predicted:
    """What smaller runs say of a held-out one.

    Attributes:
        law: by which.
        step: of the held-out run.
        said: its loss, predicted.
        measured: its loss.
    """

    law: str
    step: int
    said: Estimate
    measured: float

    @property
    def error(self) -> float:
        """In percent of what was measured."""
        return 100 * (self.said.value / self.measured - 1)


@dataclass(frozen=True)
class Laws:
    """What was fitted to the smaller runs of one medium.

    Attributes:
        step: that all runs have, at which sizes are compared.
        by_size: loss against parameters at that step.
        joint: loss against parameters and samples, over the checkpoints from `first` on; None if they are too few.
        predicted: the held-out run's losses.
    """

    step: int
    by_size: Fit
    joint: Fit | None
    predicted: tuple[Predicted, ...]


def laws(runs: Sequence[SizeRun], held_out: str, medium: str, first: int = 0) -> Laws:
    """Fits the runs that are not held out, and says what they predict.

    Args:
        runs: of several sizes.
        held_out: label of the size that no fit sees.
        medium: `pictures` or `clips`.
        first: steps before it are left out of the joint law: the start of training follows none.

    Raises:
        ValueError: if there is no such size, it is not the largest, too few are left, or runs share no step.
    """
    kept, out = [r for r in runs if r.label != held_out], [r for r in runs if r.label == held_out]
    if not out:
        raise ValueError(
            f"--held-out {held_out!r} is no size of these: {', '.join(dict.fromkeys(r.label for r in runs))}"
        )
    if max(r.parameters for r in kept) > out[0].parameters:
        raise ValueError(f"--held-out {held_out!r} is not the largest: a larger one must not tell of a smaller one")
    shared = set.intersection(*({each.step for each in run.checkpoints} for run in runs))
    if not shared:
        raise ValueError("the runs share no step at which they were validated: give them one val_check_interval")
    step = max(shared)
    by_size = fit_power_law([r.parameters for r in kept], [r.at(step).losses[medium] for r in kept])
    points = [(run.parameters, each.samples, each.losses[medium]) for run in kept for each in run.checkpoints
              if each.step >= first]  # fmt: skip
    joint = None
    if len(points) >= 6:
        n, d, y = zip(*points, strict=True)
        joint = fit_size_and_data(n, d, y)
    predicted = []
    for run in out:
        measured = run.at(step).losses[medium]
        predicted.append(Predicted("L(N)", step, by_size.predict(run.parameters), measured))
        if joint is not None:
            for each in (run.at(step), run.checkpoints[-1])[: 1 if run.checkpoints[-1].step == step else 2]:
                said = joint.predict(run.parameters, each.samples)
                predicted.append(Predicted("L(N, D)", each.step, said, each.losses[medium]))
    return Laws(step, by_size, joint, tuple(predicted))
