"""Correlation of two quantities along training runs, with intervals that know that neighbouring checkpoints are alike.

A run of n checkpoints whose values hang together says as much as fewer independent ones. For AR(1) series of lag-1
correlations phi_x, phi_y Bartlett's variance of a correlation is that of

    n_eff = n / (1 + 2 sum_k (1 - k/n) (phi_x phi_y)^k)

independent pairs (Pyper and Peterman 1998), which falls to 1 per run as its values become one drift. Runs are
independent of each other, so theirs add up. phi is estimated about the mean of all runs, so that runs which differ by a
constant count as one point each, and corrected for its bias in short series (Marriott and Pope 1954).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mmflow.metrics.interval import Z95, Interval

Floats = NDArray[np.float64]
MIN_POINTS = 8
MIN_EFFECTIVE = 4.5
"""Below, an interval of a correlation is all of [-1, 1]."""


def pearson(x: Floats, y: Floats) -> float:
    """Linear correlation; 0 where one of the two is constant."""
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / norm if norm > 0 else 0.0


def spearman(x: Floats, y: Floats) -> float:
    """Pearson's of the ranks, ties at their mean rank."""
    return pearson(rankdata(x), rankdata(y))


def kendall(x: Floats, y: Floats) -> float:
    """tau-b: concordant less discordant pairs, over the geometric mean of the pairs untied in x and in y."""
    a, b = np.sign(x[:, None] - x[None]), np.sign(y[:, None] - y[None])
    norm = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


COEFFICIENTS: dict[str, Callable[[Floats, Floats], float]] = {
    "pearson": pearson,
    "spearman": spearman,
    "kendall": kendall,
}


def _variance(name: str, r: float, n: float) -> float:
    """Of atanh(r) for n independent pairs: Fisher; Bonett and Wright 2000; Fieller, Hartley and Pearson 1957."""
    if name == "kendall":
        return 0.437 / (n - 4)
    return (1 + r * r / 2 if name == "spearman" else 1.0) / (n - 3)


def lag_one(runs: Sequence[Floats]) -> float:
    """Correlation of neighbours within runs, about the mean of all, bias-corrected, in [0, 1]."""
    mean, n = np.concatenate(runs).mean(), sum(map(len, runs))
    neighbours = sum(float((run[1:] - mean) @ (run[:-1] - mean)) for run in runs)
    spread = sum(float((run - mean) @ (run - mean)) for run in runs)
    if spread == 0 or n == len(runs):
        return 0.0
    phi = neighbours / spread * n / (n - len(runs))
    return float(np.clip(phi + (1 + 3 * phi) / n, 0.0, 1.0))


def effective_number(x: Sequence[Floats], y: Sequence[Floats]) -> float:
    """How many independent pairs the runs are worth."""
    product = lag_one(x) * lag_one(y)
    total = 0.0
    for run in x:
        k = np.arange(1, len(run))
        total += len(run) / (1 + 2 * float(((1 - k / len(run)) * product**k).sum()))
    return total


@dataclass(frozen=True)
class Correlation:
    """One coefficient.

    Attributes:
        name: pearson, spearman or kendall.
        interval: with its 95 % interval, [-1, 1] where the points are worth too few; n is the number of points.
        effective: independent points that they are worth.
    """

    name: str
    interval: Interval
    effective: float


def correlate(x: Sequence[Floats], y: Sequence[Floats], name: str = "pearson") -> Correlation:
    """A coefficient over all points of all runs.

    Args:
        x: one array per run, in the order of its steps.
        y: likewise, of the same lengths.
        name: pearson, spearman or kendall.

    Raises:
        ValueError: if lengths differ, a number is not finite, or there are fewer than 8 points.
    """
    if [len(run) for run in x] != [len(run) for run in y]:
        raise ValueError(f"runs of {[len(r) for r in x]} losses and {[len(r) for r in y]} scores do not pair up")
    pooled_x, pooled_y = (np.concatenate([np.asarray(run, dtype=np.float64) for run in runs]) for runs in (x, y))
    if len(pooled_x) < MIN_POINTS:
        raise ValueError(f"a correlation of {len(pooled_x)} checkpoints says nothing: {MIN_POINTS} are the least")
    if not (np.isfinite(pooled_x).all() and np.isfinite(pooled_y).all()):
        raise ValueError("there are losses or scores that are not finite")
    r = COEFFICIENTS[name](pooled_x, pooled_y)
    if name != "pearson":  # what hangs together is the ranks
        x, y = _ranked(x), _ranked(y)
    n = effective_number(x, y)
    if n <= MIN_EFFECTIVE:
        return Correlation(name, Interval(r, -1.0, 1.0, len(pooled_x)), n)
    z, half = math.atanh(min(max(r, -1 + 1e-12), 1 - 1e-12)), Z95 * math.sqrt(_variance(name, r, n))
    return Correlation(name, Interval(r, math.tanh(z - half), math.tanh(z + half), len(pooled_x)), n)


def _ranked(runs: Sequence[Floats]) -> list[Floats]:
    ranks = rankdata(np.concatenate(runs))
    return np.split(ranks, np.cumsum([len(run) for run in runs])[:-1])


def correlate_all(
    losses: Mapping[str, Sequence[Floats]], scores: Mapping[str, Sequence[Floats]]
) -> dict[tuple[str, str], list[Correlation]]:
    """All coefficients of each loss stratum with each score."""
    return {
        (stratum, score): [correlate(x, y, name) for name in COEFFICIENTS]
        for stratum, x in losses.items()
        for score, y in scores.items()
    }
