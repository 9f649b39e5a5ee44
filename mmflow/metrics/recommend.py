"""Which loss predicts a score best on checkpoints it has not seen, and which checkpoint to keep.

A stratum's loss predicts the score by a straight line, fitted on all blocks of neighbouring checkpoints but one and
judged on that one; several runs are left out in turn instead. Skill is the share of the score's variance that it
predicts there: 0 is what the mean does. The score of a checkpoint is then estimated from both, what was measured
(with its standard error) and what the best stratum's loss predicts (with its error on held-out checkpoints), each
weighed by its precision; how sure the choice is, is the probability that the chosen one is best under these errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmflow.metrics.correlation import MIN_POINTS, correlate, effective_number
from mmflow.metrics.evidence import Evidence

Floats = NDArray[np.float64]
BLOCKS = 4
DRAWS = 4000
MIN_WORTH = 3.0
"""Independent errors of the prediction below which nothing is recommended."""


@dataclass(frozen=True)
class Predictor:
    """A stratum's loss as a predictor of a score.

    Attributes:
        stratum: of the loss.
        skill: 1 - error^2 / variance on held-out checkpoints; at most 1, below 0 worse than the mean.
        error: root mean square, in the score's own unit.
        predictions: of every checkpoint while it was held out.
    """

    stratum: str
    skill: float
    error: float
    predictions: Floats


@dataclass(frozen=True)
class Recommendation:
    """The checkpoint to keep for one score.

    Attributes:
        score: its name.
        best: strata, the best predictor first.
        run, step: of the checkpoint.
        sure: probability that it is the best of all, under the errors of measuring and predicting.
        others: (run, step, probability) of the next likely ones.
        effective: independent checkpoints that the evidence is worth.
    """

    score: str
    best: tuple[Predictor, ...]
    run: str
    step: int
    sure: float
    others: tuple[tuple[str, int, float], ...]
    effective: float

    def sentence(self) -> str:
        """In words."""
        first = self.best[0]
        if first.skill <= 0:
            said = "no loss predicts it better than its own mean on held-out checkpoints"
        else:
            said = f"predicted best by {first.stratum} (skill {first.skill:.2f} on held-out checkpoints)"
        doubt = "" if self.sure >= 0.8 else "; others are as likely: " if self.sure < 0.5 else "; else: "
        if doubt:
            doubt += ", ".join(f"{run} {step} ({p:.0%})" for run, step, p in self.others[:3])
        return (
            f"{self.score}: {said}. Keep {self.run} at step {self.step}, best with probability {self.sure:.0%}{doubt}"
        )


def predictors(evidence: Evidence, score: str) -> list[Predictor]:
    """All strata, the best predictor on held-out checkpoints first."""
    y, folds = np.concatenate(evidence.score(score)), _folds([len(p) for p in evidence.runs.values()])
    found = []
    for stratum in evidence.strata():
        x, predictions = np.concatenate(evidence.loss(stratum)), np.empty_like(y)
        reference = np.empty_like(y)
        for fold in np.unique(folds):
            held, kept = folds == fold, folds != fold
            predictions[held] = _line(x[kept], y[kept], x[held])
            reference[held] = y[kept].mean()
        squares, spread = float(np.square(y - predictions).mean()), float(np.square(y - reference).mean())
        found.append(Predictor(stratum, 1 - squares / spread if spread else 0.0, squares**0.5, predictions))
    return sorted(found, key=lambda each: (-each.skill, each.stratum))


def _folds(lengths: Sequence[int]) -> NDArray[np.int64]:
    """The fold of each checkpoint: its run, or a block of neighbours where there are fewer than three runs."""
    if len(lengths) >= 3:
        return np.repeat(np.arange(len(lengths)), lengths)
    blocks = [np.arange(n) * BLOCKS // max(n, 1) + i * BLOCKS for i, n in enumerate(lengths)]
    return np.concatenate(blocks).astype(np.int64)


def _line(x: Floats, y: Floats, at: Floats) -> Floats:
    centred = x - x.mean()
    norm = float(centred @ centred)
    slope = float(centred @ y) / norm if norm > 0 else 0.0
    line: Floats = y.mean() + slope * (at - x.mean())
    return line


def recommend(evidence: Evidence, score: str, seed: int = 0) -> Recommendation:
    """The checkpoint to keep.

    Raises:
        ValueError: if there are too few checkpoints, or they hang together so much that they are worth too few.
    """
    names = [(run, point.step) for run, points in evidence.runs.items() for point in points]
    if len(names) < MIN_POINTS:
        raise ValueError(
            f"{score}: no recommendation from {len(names)} checkpoints, {MIN_POINTS} are the least that were both "
            "validated and scored"
        )
    best = predictors(evidence, score)
    y, errors = np.concatenate(evidence.score(score)), np.concatenate(evidence.errors(score))
    residuals = np.split(y - best[0].predictions, np.cumsum([len(p) for p in evidence.runs.values()])[:-1])
    n = effective_number(residuals, residuals)
    if n < MIN_WORTH:
        raise ValueError(
            f"{score}: no recommendation, {len(names)} checkpoints hang together so much that they are worth {n:.1f}; "
            f"{MIN_WORTH:g} are the least"
        )
    useful = best[0].skill > 0
    # What is left of the held-out error beside the noise of measuring; but a mean of n squares is itself known to no
    # better than (2 / n)^1/2 of it, and a scatter that cannot be told from nothing is not nothing.
    square = best[0].error ** 2
    scatter = max(square - float(np.square(errors).mean()), square * (2 / n) ** 0.5, 1e-12)
    precision = 1 / np.maximum(errors, 1e-9) ** 2
    weight = precision / (precision + 1 / scatter) if useful else np.ones_like(y)
    estimate = weight * y + (1 - weight) * best[0].predictions
    error = np.sqrt(1 / (precision + (1 / scatter if useful else 0.0)))
    rng = np.random.Generator(np.random.Philox(key=seed))
    wins = np.bincount((estimate + error * rng.standard_normal((DRAWS, len(y)))).argmax(1), minlength=len(y)) / DRAWS
    chosen, *rest = np.argsort(-estimate, kind="stable").tolist()
    others = sorted(((*names[i], float(wins[i])) for i in rest), key=lambda each: -each[2])[:3]
    run, step = names[chosen]
    return Recommendation(score, tuple(best), run, step, float(wins[chosen]), tuple(others), n)


def agreement(evidence: Evidence, score: str, stratum: str, name: str) -> tuple[float, float, float, float]:
    """How well a lower loss goes with a better score: minus the coefficient, its interval, and effective points."""
    found = correlate(evidence.loss(stratum), evidence.score(score), name)
    return -found.interval.value, -found.interval.high, -found.interval.low, found.effective
