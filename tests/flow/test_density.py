"""Densities: numeric oracles of the paper's formulas, pdfs that integrate to one, quantiles that follow them."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from mmflow.flow import formulations
from mmflow.flow.density import (
    LARGEST_MODE_SCALE,
    AbstractDensity,
    AsWeight,
    CosMap,
    LogitNormal,
    Mode,
    Shifted,
    Uniform,
)

GRID = [formulations.parse(name).density for name in formulations.grid() if name.startswith("rf")]
DENSITIES = [
    *GRID,
    Shifted(LogitNormal(), 3.0),
    Shifted(Mode(-1.0), 0.4),
    Shifted(Shifted(CosMap(), 2.0), 1.5),
]
"""The 40 of the study's rectified flows, which hold the extremes, and three shifted ones."""


def test_logit_normal_oracles() -> None:
    density = LogitNormal(0.0, 1.0)
    at = torch.tensor([0.5, 0.25, 0.75, 0.1], dtype=torch.float64)
    assert torch.allclose(density.pdf(at), torch.tensor([1.5958, 1.1637, 1.1637, 0.3966]).double(), atol=1e-4)
    u = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    assert torch.allclose(density.quantile(u), torch.tensor([0.162, 0.337, 0.5, 0.663, 0.838]).double(), atol=1e-3)


def test_mode_and_cosmap_oracles() -> None:
    at = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert Mode(1.0).pdf(at).tolist() == pytest.approx([0.5, 2.32990, 0.5], abs=1e-5)
    assert Mode(1.29).pdf(at).tolist() == pytest.approx([0.43668, 3.79258, 0.43668], abs=1e-5)
    assert Mode(0.9).pdf(torch.tensor([0.37]).double()).item() == pytest.approx(1.23967, abs=1e-5)
    assert CosMap().pdf(at).tolist() == pytest.approx([0.63662, 1.27324, 0.63662], abs=1e-5)


def test_eq_20_and_21_as_printed() -> None:
    u = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    f = 1 - u - 1.29 * (torch.cos(math.pi * u / 2).square() - 1 + u)
    assert torch.allclose(Mode(1.29).quantile(1 - u), f)
    assert torch.allclose(CosMap().quantile(u), 1 - 1 / (torch.tan(math.pi * u / 2) + 1))


def test_a_mode_of_scale_zero_is_uniform() -> None:
    u = torch.rand(20, dtype=torch.float64)
    assert torch.equal(Mode(0.0).quantile(u), u) and torch.allclose(Mode(0.0).pdf(u), torch.ones_like(u))


def test_the_study_has_forty_densities() -> None:
    assert len(set(GRID)) == 40


def masses(density: AbstractDensity) -> tuple[np.ndarray, np.ndarray]:
    """Edges that are dense at both ends and in the middle, and the integral of the pdf up to each."""
    ends = torch.sigmoid(torch.linspace(-34, 34, 120_001, dtype=torch.float64))
    middle = 0.5 + torch.linspace(-1, 1, 4_001, dtype=torch.float64) ** 3 / 4
    t = torch.cat([ends, middle]).unique()
    return t.numpy(), torch.cumulative_trapezoid(density.pdf(t), t).numpy()


@pytest.mark.parametrize("density", DENSITIES, ids=str)
def test_pdf_integrates_to_one_and_draws_follow_it(density: AbstractDensity) -> None:
    t, mass = masses(density)
    assert mass[-1] == pytest.approx(1.0, abs=1e-3)
    u = torch.rand(4_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draws = density.quantile(u).numpy()
    assert stats.kstest(draws, lambda x: np.interp(x, t[1:], mass)).pvalue > 0.01


@pytest.mark.parametrize("density", DENSITIES, ids=str)
def test_pdf_is_the_slope_of_the_inverse_quantile(density: AbstractDensity) -> None:
    u = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
    h = 1e-6
    slope = (density.quantile(u + h) - density.quantile(u - h)) / (2 * h)
    product = density.pdf(density.quantile(u)) * slope
    assert torch.allclose(product, torch.ones_like(u), atol=1e-3)


def test_a_shifted_density_is_the_density_of_shifted_times() -> None:
    """lognorm(m, s) shifted by alpha is lognorm(m + log alpha, s)."""
    t, u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    expected = LogitNormal(math.log(3.0), 1.0)
    assert torch.allclose(Shifted(LogitNormal(), 3.0).pdf(t), expected.pdf(t))
    assert torch.allclose(Shifted(LogitNormal(), 3.0).quantile(u), expected.quantile(u))


@pytest.mark.parametrize("density", [LogitNormal(), Mode(1.29), CosMap(), Shifted(LogitNormal(), 3.0)], ids=str)
def test_a_density_samples_or_weighs_and_the_expectation_is_the_same(density: AbstractDensity) -> None:
    """E over pi of l(t) = E over U of pi(t) l(t) (eq 18), also behind a shift."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for wrap in (lambda d: d, lambda d: Shifted(d, 3.0)):
        sampled, weighed = wrap(density), wrap(AsWeight(density))
        a, b = sampled.quantile(u), weighed.quantile(u)
        losses = [(1 + torch.sin(3 * t) + t.square()) for t in (a, b)]
        assert torch.equal(sampled.weight(a), torch.ones_like(a))
        assert (sampled.weight(a) * losses[0]).mean().item() == pytest.approx(
            (weighed.weight(b) * losses[1]).mean().item(), rel=1e-4
        )


def test_a_density_does_not_weigh_twice() -> None:
    with pytest.raises(ValueError, match=r"draws or weighs, never both.*AsWeight\(density=CosMap\(\)\)"):
        AsWeight(Shifted(AsWeight(CosMap()), 3.0))


def test_logit_of_quantiles_of_uniforms_is_normal() -> None:
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    t = LogitNormal(0.5, 0.8).quantile(u)
    assert stats.kstest(torch.logit(t).numpy(), "norm", args=(0.5, 0.8)).pvalue > 0.01


def test_quantiles_of_the_ends_are_finite_and_inside() -> None:
    t = LogitNormal(1.0, 2.2).quantile(torch.tensor([0.0, 1.0]))
    assert torch.isfinite(t).all() and (t >= 0).all() and (t <= 1).all()


def test_pdf_vanishes_at_the_ends() -> None:
    assert torch.equal(LogitNormal().pdf(torch.tensor([0.0, 1.0])), torch.zeros(2))


def test_a_std_that_is_not_positive_is_an_error() -> None:
    with pytest.raises(ValueError, match="std"):
        LogitNormal(0.0, 0.0)


@pytest.mark.parametrize("scale", [-1.01, 1.76, float("nan")])
def test_a_mode_outside_its_range_is_an_error(scale: float) -> None:
    with pytest.raises(ValueError, match=r"s of Mode.*\[-1, 2 / \(pi - 2\) = 1\.7519\]"):
        Mode(scale)


def test_a_shift_that_is_not_positive_is_an_error() -> None:
    with pytest.raises(ValueError, match="alpha"):
        Shifted(Uniform(), 0.0)


def test_fp32_ends_are_finite_and_inside() -> None:
    ends = torch.tensor([0.0, 1.0])
    for density in (*DENSITIES, Mode(LARGEST_MODE_SCALE)):
        t = density.quantile(ends)
        assert torch.isfinite(t).all() and (t >= 0).all() and (t <= 1).all(), density
