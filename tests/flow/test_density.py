"""Densities: numeric oracles of the paper's formulas, pdfs that integrate to one, quantiles that follow them."""

import pytest
import torch
from scipy import stats

from mmflow.flow.density import AbstractDensity, LogitNormal, Uniform

DENSITIES = [Uniform(), LogitNormal(), LogitNormal(1.0, 0.6), LogitNormal(-0.5, 2.2), LogitNormal(1.0, 0.2)]


def test_logit_normal_oracles() -> None:
    density = LogitNormal(0.0, 1.0)
    at = torch.tensor([0.5, 0.25, 0.75, 0.1], dtype=torch.float64)
    assert torch.allclose(density.pdf(at), torch.tensor([1.5958, 1.1637, 1.1637, 0.3966]).double(), atol=1e-4)
    u = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    assert torch.allclose(density.quantile(u), torch.tensor([0.162, 0.337, 0.5, 0.663, 0.838]).double(), atol=1e-3)


@pytest.mark.parametrize("density", DENSITIES, ids=str)
def test_pdf_integrates_to_one(density: AbstractDensity) -> None:
    t = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    assert torch.trapezoid(density.pdf(t), t).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("density", DENSITIES, ids=str)
def test_pdf_is_the_slope_of_the_inverse_quantile(density: AbstractDensity) -> None:
    u = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
    h = 1e-6
    slope = (density.quantile(u + h) - density.quantile(u - h)) / (2 * h)
    assert torch.allclose(density.pdf(density.quantile(u)) * slope, torch.ones_like(u), atol=1e-4)


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
