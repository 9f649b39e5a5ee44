"""How sure a score is: the interval that goes with every number we report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
RESAMPLES = 2000
BLOCK = 4_000_000
"""Numbers of a bootstrap that are in memory at once."""


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval.

    Attributes:
        value, low, high: in the score's own unit.
        n: samples it was computed from.
    """

    value: float
    low: float
    high: float
    n: int


def wilson(hits: int, n: int, z: float = Z95) -> Interval:
    """Wilson's score interval of a rate; never leaves [0, 1] and is not empty at 0 or 1.

    Raises:
        ValueError: unless 0 <= hits <= n and n > 0.
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"a rate needs 0 <= hits <= n and n > 0, got {hits} of {n}")
    rate = hits / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return Interval(rate, min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half)), n)


def bootstrap(groups: Mapping[str, Sequence[Sequence[float]]], seed: int = 0) -> Interval:
    """Percentile bootstrap over prompts of the unweighted mean of the groups' means.

    Args:
        groups: for every tag, for every prompt, the scores of its images. Images of one prompt are alike, so prompts
            are drawn anew, within their tag, and images are not.
        seed: of the resampling; equal seeds give equal intervals.

    Raises:
        ValueError: if there is no group, or a group or a prompt has no score.
    """
    if not groups or any(not prompts or any(not len(images) for images in prompts) for prompts in groups.values()):
        raise ValueError("a bootstrap needs at least one prompt in every group and one score in every prompt")
    rng = np.random.Generator(np.random.Philox(key=seed))
    value, n, draws = 0.0, 0, np.zeros(RESAMPLES)
    for prompts in groups.values():
        sums = np.array([sum(images) for images in prompts], dtype=np.float64)
        sizes = np.array([len(images) for images in prompts], dtype=np.float64)
        drawn = rng.integers(len(prompts), size=(RESAMPLES, len(prompts)))
        draws += sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
        value += float(sums.sum() / sizes.sum())
        n += int(sizes.sum())
    value /= len(groups)
    low, high = np.percentile(draws / len(groups), [2.5, 97.5]).tolist()
    return Interval(value, min(value, low), max(value, high), n)


def bootstrap_means(values: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Means of `RESAMPLES` samples drawn anew from the rows of `values` (n, k); (RESAMPLES, k).

    Raises:
        ValueError: if there is no row.
    """
    n = len(values)
    if not n:
        raise ValueError("a bootstrap needs at least one sample")
    rng = np.random.Generator(np.random.Philox(key=seed))
    block = max(1, BLOCK // n)
    counts = (
        rng.multinomial(n, np.full(n, 1 / n), size=min(block, RESAMPLES - start))
        for start in range(0, RESAMPLES, block)
    )
    return np.concatenate([each @ values for each in counts]) / n


def interval_of(value: float, draws: NDArray[np.float64], n: int) -> Interval:
    """A value with the 95 % percentile interval of its bootstrap draws."""
    low, high = np.percentile(draws, [2.5, 97.5]).tolist()
    return Interval(value, min(value, low), max(value, high), n)
