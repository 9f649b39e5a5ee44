"""How much better is each of several models, from who was preferred to whom: Bradley and Terry 1952. NumPy alone.

    P(i is preferred to j) = p_i / (p_i + p_j)

Strengths are the maximum of the likelihood, found by minorisation (Hunter 2004): with W_i the wins of i and n_ij the
comparisons of i and j,

    p_i <- W_i / sum_j n_ij / (p_i + p_j)

A tie is half a win of each. Every pair that was compared has one tie more, the half that is added to both sides of an
empirical log odds (Haldane 1956, Anscombe 1956): it takes the first-order bias of the estimate, and one that always
wins is strong, not infinite.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from mmflow.metrics.interval import Interval, bootstrap_means, interval_of

Floats = NDArray[np.float64]
ELO = 400 / math.log(10)
"""Points of Elo per unit of log strength: 400 are odds of ten to one."""
ANCHOR = 1000.0
"""Elo of the model that the others are measured from."""
ITERATIONS = 20_000


def log_strengths(wins: Floats, ties: float = 1.0, tolerance: float = 1e-9) -> Floats:
    """Maximum-likelihood log strengths, of mean 0.

    Args:
        wins: (..., S, S): how often i was preferred to j, ties half; the diagonal is 0.
        ties: that every compared pair is given in addition; 0 is the plain likelihood.
        tolerance: of the largest change of a log strength.

    Returns:
        (..., S).

    Raises:
        ValueError: if the likelihood has no maximum: without added ties, one that never won or never lost.
    """
    compared = (wins + np.swapaxes(wins, -1, -2)) > 0
    return _fit(wins + 0.5 * ties * compared, tolerance)


def _fit(wins: Floats, tolerance: float) -> Floats:
    won, number = wins.sum(-1), wins + np.swapaxes(wins, -1, -2)
    if not (won > 0).all():
        raise ValueError("no strength of a model that was never preferred: its likelihood has no maximum")
    log: Floats = np.zeros(won.shape)
    for _ in range(ITERATIONS):
        strength = np.exp(log)
        new: Floats = np.log(won) - np.log((number / (strength[..., :, None] + strength[..., None, :])).sum(-1))
        new -= new.mean(-1, keepdims=True)
        moved = float(np.abs(new - log).max())
        log = new
        if moved < tolerance:
            return log
    raise ValueError("the likelihood has no maximum: some models always win against the rest")


def require_connected(wins: Floats, names: Sequence[str]) -> None:
    """Refuses strengths of models that nothing links.

    Args:
        wins: (S, S).
        names: of the S models.

    Raises:
        ValueError: naming two groups that were never compared.
    """
    number, group = connected_components(wins + wins.T, directed=False)
    if number > 1:
        parts = [", ".join(name for name, g in zip(names, group, strict=True) if g == k) for k in range(2)]
        raise ValueError(f"no vote compares {parts[0]} with {parts[1]}, even by way of others: collect such votes")


def elo(wins: Floats, anchor: int | None = None) -> list[Interval]:
    """Elo of every model with its 95 % interval, from a bootstrap over prompts.

    Args:
        wins: (P, S, S): per prompt, how often i was preferred to j, ties half.
        anchor: the model that has 1000 exactly; None: their mean has.

    Returns:
        One per model; n is its number of comparisons.

    Raises:
        ValueError: if there is no prompt.
    """
    prompts, models, _ = wins.shape
    total = wins.sum(0)
    prior = 0.5 * ((total + total.T) > 0)
    drawn = bootstrap_means(wins.reshape(prompts, -1)).reshape(-1, models, models) * prompts
    values, draws = _fit(total + prior, 1e-9), _fit(drawn + prior, 1e-5)
    if anchor is not None:
        values, draws = values - values[anchor], draws - draws[:, anchor, None]
    number = (total + total.T).sum(1)
    return [
        interval_of(ANCHOR + ELO * float(values[i]), ANCHOR + ELO * draws[:, i], round(float(number[i])))
        for i in range(models)
    ]
