"""Ranking many variants by several metrics at once: non-dominated sorting (SD3 paper, section 5.1). NumPy alone.

Within each control (sampler setting, data set, raw or averaged weights) the variants that nobody beats in every metric
get rank 1 and are taken out, those that then remain unbeaten get rank 2, and so on. Ranks are averaged over the
controls, never the metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
REPLICATES = 400


def non_dominated_ranks(points: Floats, maximise: Sequence[bool]) -> NDArray[np.int64]:
    """The front of every point, from 1.

    Args:
        points: (S, n, k): n variants by k metrics, in S independent settings.
        maximise: per metric: larger is better, or smaller.

    Returns:
        (S, n). Equal points share a front; a point dominates another if it is at least as good in all metrics and
        better in one.

    Raises:
        ValueError: if a number is missing.
    """
    if not np.isfinite(points).all():
        raise ValueError("ranks need every metric of every variant: there are numbers that are missing or infinite")
    better = np.where(np.asarray(maximise), points, -points)
    # Best first: whoever dominates a point stands before it, and its front is one more than the last of theirs.
    order = np.lexsort(-np.moveaxis(better, -1, 0)[::-1], axis=-1)
    ordered = np.ascontiguousarray(np.moveaxis(np.take_along_axis(better, order[..., None], axis=1), 0, 2))  # n k S
    ranks = np.ones(ordered[:, 0].shape, dtype=np.int16)
    for i in range(1, len(ranks)):
        before, this = ordered[:i], ordered[i]
        dominated = (before[:, 0] != this[0]) if before.shape[1] == 1 else ~(before == this).all(1)
        for metric in range(1, before.shape[1]):  # in the first they are no worse: that is their order
            dominated &= before[:, metric] >= this[metric]
        ranks[i] += (ranks[:i] * dominated).max(0)
    result = np.empty(order.shape, dtype=np.int64)
    np.put_along_axis(result, order, ranks.T.astype(np.int64), axis=1)
    return result


@dataclass(frozen=True)
class Measured:
    """Metrics of all variants.

    Attributes:
        values: (controls, seeds, variants, metrics): seeds of training, the same ones for every variant.
        errors: standard errors of the values, in their shape; 0 where none is known.
        maximise: per metric.
    """

    values: Floats
    errors: Floats
    maximise: tuple[bool, ...]

    def ranks(self) -> Floats:
        """Mean rank of each variant over controls and seeds; (variants,)."""
        return self._mean(self.values)

    def _mean(self, values: Floats) -> Floats:
        *several, _, _, variants, metrics = values.shape
        ranks = non_dominated_ranks(values.reshape(-1, variants, metrics), self.maximise)
        mean: Floats = ranks.reshape(*several, -1, variants).mean(-2)
        return mean

    @property
    def has_spread(self) -> bool:
        """Whether there is anything to make intervals of: several seeds, or standard errors."""
        return self.values.shape[1] > 1 or bool((self.errors > 0).any())

    def replicates(self, num: int = REPLICATES, seed: int = 0) -> Floats:
        """Mean ranks of `num` bootstrap replicates; (num, variants).

        Training seeds are drawn anew, the same for all variants, and every metric moves by its standard error.
        """
        rng = np.random.Generator(np.random.Philox(key=seed))
        seeds = self.values.shape[1]
        parts = []
        for _ in range(num):
            drawn = rng.integers(seeds, size=seeds)
            noise = rng.standard_normal(self.values.shape) * self.errors[:, drawn]
            parts.append(self.values[:, drawn] + noise)
        return self._mean(np.stack(parts))


@dataclass(frozen=True)
class Standing:
    """One variant's place.

    Attributes:
        rank: mean rank.
        low, high: 95 % interval of it; NaN without seeds or standard errors.
        place: 1 + the number of variants whose interval lies wholly before this one's.
        tied: whether its interval overlaps that of another variant.
    """

    name: str
    rank: float
    low: float
    high: float
    place: int
    tied: bool


def standings(names: Sequence[str], measured: Measured) -> list[Standing]:
    """All variants, best first, with intervals where there is anything to make them of."""
    ranks = measured.ranks()
    low, high = ranks, ranks
    if measured.has_spread:
        low, high = np.percentile(measured.replicates(), [2.5, 97.5], axis=0)
        low, high = np.minimum(low, ranks), np.maximum(high, ranks)
    apart = high[:, None] < low[None, :]  # apart[i, j]: i is surely before j
    shown = (low, high) if measured.has_spread else (np.full_like(ranks, np.nan),) * 2
    found = [
        Standing(
            names[i],
            float(ranks[i]),
            float(shown[0][i]),
            float(shown[1][i]),
            1 + int(apart[:, i].sum()),
            int((~apart[i] & ~apart[:, i]).sum()) > 1,
        )
        for i in range(len(names))
    ]
    return sorted(found, key=lambda each: (each.rank, each.name))


def are_apart(a: Standing, b: Standing) -> bool:
    """Whether their intervals do not overlap."""
    return a.high < b.low or b.high < a.low


def separated_share(found: Sequence[Standing]) -> float:
    """Share of all pairs of variants whose intervals do not overlap; 0 without intervals."""
    pairs = [(a, b) for i, a in enumerate(found) for b in found[:i]]
    return sum(are_apart(a, b) for a, b in pairs) / len(pairs) if pairs else 0.0
