"""Do raters agree beyond chance? Krippendorff's alpha: any number of raters, answers that are missing. NumPy alone.

    alpha = 1 - D_o / D_e,  D_o = 1/n sum_ck o_ck d2_ck,  D_e = 1/(n (n - 1)) sum_ck n_c n_k d2_ck

o_ck counts pairs of answers c, k within units, each unit's pairs divided by its answers less one; n_c are its margins
(Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011). 1 is agreement, 0 is chance.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mmflow.metrics.interval import Interval, bootstrap_means, interval_of

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval"]


def coincidences(answers: Floats) -> tuple[Floats, Floats]:
    """Pairs of answers within each unit.

    Args:
        answers: (units, raters); NaN where a rater did not answer.

    Returns:
        The V values that occur, in order, and (U, V, V) counts of the units with two answers or more.
    """
    answers = answers[(~np.isnan(answers)).sum(1) >= 2]
    values = np.unique(answers[~np.isnan(answers)])
    counts = (answers[:, :, None] == values).sum(1).astype(np.float64)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(values))
    return values, pairs / (counts.sum(1) - 1)[:, None, None]


def _differences(values: Floats, margins: Floats, level: Level) -> Floats:
    """(R, V, V) squared differences of two answers; those of ranks depend on how often each occurs."""
    if level == "nominal":
        return np.broadcast_to(1 - np.eye(len(values)), (*margins.shape, len(values)))
    if level == "interval":
        return np.broadcast_to((values[:, None] - values) ** 2, (*margins.shape, len(values)))
    middle = np.cumsum(margins, -1) - margins / 2
    squared: Floats = (middle[..., :, None] - middle[..., None, :]) ** 2
    return squared


def _alpha(values: Floats, pairs: Floats, level: Level) -> Floats:
    """(R,) of as many sums of coincidences, (R, V, V)."""
    margins = pairs.sum(-1)
    n = margins.sum(-1)
    differences = _differences(values, margins, level)
    observed = (pairs * differences).sum((-1, -2))
    expected = (margins[..., :, None] * margins[..., None, :] * differences).sum((-1, -2)) / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha: Floats = 1 - observed / expected
    return alpha


def krippendorff_alpha(answers: Floats, level: Level = "nominal") -> Interval:
    """Alpha with its 95 % interval, from a bootstrap over units.

    Args:
        answers: (units, raters); NaN where a rater did not answer.
        level: nominal, equal or not; ordinal, how many answers lie between; interval, their difference.

    Returns:
        n is the number of answers that can be paired.

    Raises:
        ValueError: if no unit has two answers, or all answers are the same: chance cannot be told from agreement.
    """
    values, pairs = coincidences(np.asarray(answers, dtype=np.float64))
    if not len(pairs):
        raise ValueError("agreement needs something that two raters answered")
    if len(values) < 2:
        raise ValueError("agreement cannot be told from chance where all answers are the same")
    alpha = float(_alpha(values, pairs.sum(0, keepdims=True), level)[0])
    drawn = bootstrap_means(pairs.reshape(len(pairs), -1)).reshape(-1, *pairs.shape[1:]) * len(pairs)
    draws = _alpha(values, drawn, level)
    return interval_of(alpha, draws[np.isfinite(draws)], round(float(pairs.sum())))
