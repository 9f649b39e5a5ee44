"""Distances between sets of features: closed forms, invariances, and what they refuse."""

import time
import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from mmflow.metrics.distance import (
    frechet_distance,
    jackknife_error,
    kernel_distance,
    kernel_distance_of_subsets,
    moments,
)
from mmflow.metrics.set_metrics import FrechetDistance, KernelDistance

RNG = np.random.default_rng(0)


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    a = RNG.normal(size=(20_000, 3))
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a, 2 * a + 1) == pytest.approx(3 + 3 * (1 + 4 - 2 * 2), rel=0.05)
    assert frechet_distance(a, a[::-1] + 2) == pytest.approx(12.0)


def test_frechet_distance_of_known_moments_is_exact() -> None:
    """Samples whose mean and covariance are exactly mu and diag(s): |mu_a - mu_b|^2 + sum (sqrt s_a - sqrt s_b)^2."""
    white = RNG.normal(size=(500, 3))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    mu, s = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 3.0]]), np.array([[1.0, 4.0, 9.0], [4.0, 0.25, 1.0]])
    a, b = (white * np.sqrt(s[i]) + mu[i] for i in range(2))
    assert frechet_distance(a, b) == pytest.approx((1 + 9 + 6.25) + (1 + 2.25 + 4), rel=1e-9)
    assert frechet_distance(RNG.permutation(a), b) == pytest.approx(frechet_distance(a, b), rel=1e-9)


def test_frechet_distance_is_that_of_the_matrix_root() -> None:
    a, b = RNG.normal(size=(400, 12)) @ RNG.normal(size=(12, 12)), RNG.normal(size=(300, 12)) + 0.3
    (mu_a, s_a), (mu_b, s_b) = moments(a), moments(b)
    assert np.allclose(s_a, np.cov(a, rowvar=False), atol=1e-12)
    expected = ((mu_a - mu_b) ** 2).sum() + np.trace(s_a + s_b - 2 * sqrtm(s_a @ s_b).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a[::-1], b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_few_pictures_have_a_finite_distance_and_a_warning_that_offers_the_kernel_s() -> None:
    a, b = RNG.normal(size=(20, 50)), RNG.normal(size=(900, 50))
    with pytest.warns(UserWarning, match=r"20 pictures on 50 features.*KID"):
        few = frechet_distance(a, b)
    cross = np.sqrt(np.linalg.eigvals(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real.clip(0)).sum()
    spread = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    assert few == pytest.approx(((a.mean(0) - b.mean(0)) ** 2).sum() + spread - 2 * cross, rel=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(frechet_distance(b[:, :1].repeat(8, 1), b[::2, :1].repeat(8, 1)))  # rank one


def test_kernel_distance_is_unbiased_and_its_subsets_agree() -> None:
    draws = [kernel_distance(*RNG.normal(size=(2, 40, 4))) for _ in range(200)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / 200**0.5
    split = RNG.normal(size=(2000, 4))
    assert abs(kernel_distance(split[::2], split[1::2])) < 0.02  # of a set with its own other half; +1 in mean gives 5
    a, b = RNG.normal(size=(700, 4)), RNG.normal(size=(600, 4)) + 1
    mean, deviation = kernel_distance_of_subsets(a, b, subsets=60, size=100)
    assert mean == pytest.approx(kernel_distance(a, b), abs=4 * deviation / 60**0.5)
    k = (a[:3] @ b[:4].T / 4 + 1) ** 3  # by hand, of seven pictures
    aa, bb = (a[:3] @ a[:3].T / 4 + 1) ** 3, (b[:4] @ b[:4].T / 4 + 1) ** 3
    expected = (aa.sum() - np.trace(aa)) / 6 + (bb.sum() - np.trace(bb)) / 12 - 2 * k.mean()
    assert kernel_distance(a[:3], b[:4]) == pytest.approx(expected, rel=1e-12)


def test_the_error_of_a_distance_is_its_spread_over_new_pictures() -> None:
    reference = RNG.normal(size=(300, 4))
    sets = [RNG.normal(size=(100, 4)) + 0.5 for _ in range(40)]
    spread = np.std([kernel_distance(each, reference) for each in sets])
    told = np.mean([jackknife_error(kernel_distance, each, reference) for each in sets[:8]])
    assert 0.7 * spread < told < 1.4 * spread


def test_shells_give_the_cores_numbers_in_any_batches() -> None:
    made, true = RNG.normal(size=(90, 8)), RNG.normal(size=(120, 8)) + 0.5
    frechet, kernel = FrechetDistance(8), KernelDistance(subsets=5, size=50)
    for start in range(0, 120, 33):
        for metric in (frechet, kernel):
            metric.update(torch.from_numpy(made[start : start + 33]), true=False)
            metric.update(torch.from_numpy(true[start : start + 33]), true=True)
    assert frechet.compute() == pytest.approx(frechet_distance(made, true), rel=1e-9)
    assert kernel.compute() == pytest.approx(kernel_distance_of_subsets(made, true, 5, 50))
    with pytest.raises(ValueError, match="not finite"):
        frechet.update(torch.tensor([[float("nan")] * 8]), true=False)
    with pytest.raises(ValueError, match="two pictures"):
        FrechetDistance(8).compute()


def test_what_has_no_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="got 1 and 5"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="different widths"):
        kernel_distance(np.zeros((4, 3)), np.zeros((4, 2)))
    bad = np.zeros((5, 3))
    bad[2, 1] = np.nan
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match="1 of 5 feature vectors are not finite, the first is number 2"):
            distance(bad, np.zeros((5, 3)))


@pytest.mark.slow
def test_frechet_distance_of_ten_thousand_wide_features_is_quick() -> None:
    a, b = RNG.normal(size=(2, 10_000, 2048))
    started = time.process_time()
    frechet_distance(a, b)
    assert time.process_time() - started < 25  # seconds of all cores, on a machine that others use too
