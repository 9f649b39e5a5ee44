"""Closed forms of path and prediction."""

import pytest
import torch

from mmflow.flow.path import RectifiedFlow
from mmflow.flow.prediction import Data, Velocity

T = torch.tensor([0.1, 0.37, 0.5, 0.9])


def bag(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 1, 4, 4, generator=g), torch.randn(4, 3, 1, 4, 4, generator=g)


def test_ends_are_data_and_noise() -> None:
    x0, eps = bag()
    path = RectifiedFlow()
    assert torch.equal(path.interpolate(x0, eps, torch.zeros(4)), x0)
    assert torch.equal(path.interpolate(x0, eps, torch.ones(4)), eps)


def test_derivatives_agree_with_autograd() -> None:
    path = RectifiedFlow()
    for f, df in ((path.a, path.da), (path.b, path.db)):
        t = T.clone().requires_grad_()
        (grad,) = torch.autograd.grad(f(t).sum(), t)
        assert torch.allclose(grad, df(T))


def test_log_snr_is_twice_the_log_odds_of_data() -> None:
    assert torch.allclose(RectifiedFlow().log_snr(T), 2 * torch.log((1 - T) / T), atol=1e-6)


@pytest.mark.parametrize("prediction", [Velocity(), Data(min_t=0.05)])
def test_a_perfect_output_gives_the_exact_velocity(prediction: Velocity | Data) -> None:
    x0, eps = bag()
    path = RectifiedFlow()
    z = path.interpolate(x0, eps, T)
    output = prediction.target(path, x0, eps, T)
    assert torch.allclose(prediction.velocity(path, output, z, T), eps - x0, atol=1e-5)


def test_data_errors_weigh_as_velocity_errors() -> None:
    x0, eps = bag()
    path, prediction = RectifiedFlow(), Data(min_t=0.05)
    z = path.interpolate(x0, eps, T)
    output = x0 + 0.1 * eps
    as_velocity = (prediction.velocity(path, output, z, T) - (eps - x0)).square().flatten(1).mean(1)
    weighted = prediction.weight(path, T) * (output - x0).square().flatten(1).mean(1)
    assert torch.allclose(as_velocity, weighted, rtol=1e-4)


def test_data_weight_is_bounded_at_the_clean_end() -> None:
    weight = Data(min_t=0.1).weight(RectifiedFlow(), torch.tensor([0.0, 0.05, 0.1]))
    assert torch.allclose(weight, torch.full((3,), 100.0))


def test_min_t_outside_its_range_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"min_t.*1\.5"):
        Data(min_t=1.5)
