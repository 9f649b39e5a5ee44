"""Correlations of checkpoints: known coefficients, and intervals that cover planted truths."""

import math

import numpy as np
import pytest
import scipy.stats

from mmflow.metrics.correlation import COEFFICIENTS, correlate, correlate_all, effective_number, lag_one

TRIALS = 200
TRUTH = {
    "pearson": lambda rho: rho,
    "spearman": lambda rho: 6 / math.pi * math.asin(rho / 2),
    "kendall": lambda rho: 2 / math.pi * math.asin(rho),
}
"""Of two Gaussians of correlation rho."""


def autoregressive(rng: np.random.Generator, trials: int, n: int, phi: float) -> np.ndarray:
    """Stationary AR(1) series of unit variance, (trials, n)."""
    x = np.empty((trials, n))
    x[:, 0] = rng.standard_normal(trials)
    for i in range(1, n):
        x[:, i] = phi * x[:, i - 1] + math.sqrt(1 - phi * phi) * rng.standard_normal(trials)
    return x


def planted(rho: float, n: int = 80, phi: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x, noise = autoregressive(rng, TRIALS, n, phi), autoregressive(rng, TRIALS, n, phi)
    return x, rho * x + math.sqrt(1 - rho * rho) * noise


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("name", list(COEFFICIENTS))
def test_intervals_cover_planted_truths_with_autocorrelated_noise(name: str, rho: float) -> None:
    x, y = planted(rho)
    hits = 0
    for a, b in zip(x, y, strict=True):
        found = correlate([a], [b], name).interval
        hits += found.low <= TRUTH[name](rho) <= found.high
    assert 0.90 * TRIALS <= hits <= 0.98 * TRIALS, f"{hits} of {TRIALS}"


@pytest.mark.parametrize("name", list(COEFFICIENTS))
def test_intervals_of_several_runs_cover_as_well(name: str) -> None:
    x, y = planted(0.5, seed=1)
    hits = 0
    for a, b in zip(x, y, strict=True):
        found = correlate(np.split(a, 4), np.split(b, 4), name).interval
        hits += found.low <= TRUTH[name](0.5) <= found.high
    assert 0.90 * TRIALS <= hits <= 0.98 * TRIALS + 2, f"{hits} of {TRIALS}"


def test_intervals_that_took_checkpoints_for_independent_would_not_cover() -> None:
    x, y = planted(0.0, phi=0.7)
    half = 1.96 / math.sqrt(x.shape[1] - 3)
    naive = sum(abs(math.atanh(np.corrcoef(a, b)[0, 1])) <= half for a, b in zip(x, y, strict=True))
    assert naive < 0.87 * TRIALS


def test_coefficients_are_those_of_scipy_with_ties() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 6, 30).astype(float), rng.integers(0, 5, 30).astype(float)
    expected = {
        "pearson": scipy.stats.pearsonr(x, y)[0],
        "spearman": scipy.stats.spearmanr(x, y)[0],
        "kendall": scipy.stats.kendalltau(x, y)[0],
    }
    assert {name: f(x, y) for name, f in COEFFICIENTS.items()} == pytest.approx(expected, abs=1e-12)
    assert {f(x, np.ones(30)) for f in COEFFICIENTS.values()} == {0.0}


def test_runs_that_differ_by_a_constant_are_worth_a_point_each() -> None:
    rng = np.random.default_rng(0)
    runs = [level + 1e-3 * rng.standard_normal(20) for level in range(6)]
    assert lag_one(runs) == pytest.approx(1.0, abs=0.01)
    assert effective_number(runs, runs) == pytest.approx(6, rel=0.15)
    noise = [rng.standard_normal(20) for _ in range(6)]
    assert effective_number(noise, noise) > 90


def test_one_drift_has_no_interval() -> None:
    line = np.linspace(0, 1, 30)
    found = correlate([line], [-line])
    assert found.interval.value == pytest.approx(-1) and (found.interval.low, found.interval.high) == (-1, 1)
    assert found.effective < 4.5


def test_what_cannot_be_correlated_is_refused() -> None:
    with pytest.raises(ValueError, match="7 checkpoints says nothing: 8"):
        correlate([np.arange(7.0)], [np.arange(7.0)])
    with pytest.raises(ValueError, match="do not pair up"):
        correlate([np.arange(9.0)], [np.arange(8.0)])
    with pytest.raises(ValueError, match="not finite"):
        correlate([np.arange(9.0)], [np.full(9, np.nan)])


def test_every_stratum_meets_every_score() -> None:
    x = [np.random.default_rng(0).standard_normal(12)]
    table = correlate_all({"picture": x, "clip": x}, {"geneval": x})
    assert list(table) == [("picture", "geneval"), ("clip", "geneval")]
    assert all([c.name for c in found] == list(COEFFICIENTS) for found in table.values())
