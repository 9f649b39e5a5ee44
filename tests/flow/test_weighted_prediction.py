"""Any prediction under the loss of a velocity."""

import pytest
import torch

from mmflow.flow.diffusion_prediction import EdmF, Epsilon, V
from mmflow.flow.path import RectifiedFlow
from mmflow.flow.prediction import AbstractPrediction, Data, Velocity
from mmflow.flow.weighted_prediction import AsVelocity

T = torch.tensor([0.1, 0.37, 0.5, 0.9])
PREDICTIONS: tuple[AbstractPrediction, ...] = (Velocity(), Data(), Epsilon(), V(), EdmF(0.3))


def bag() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 1, 4, 4, generator=g), torch.randn(4, 3, 1, 4, 4, generator=g)


@pytest.mark.parametrize("of", PREDICTIONS, ids=lambda p: type(p).__name__)
def test_an_error_weighs_as_the_error_of_the_velocity_it_implies(of: AbstractPrediction) -> None:
    x0, eps = bag()
    path, prediction = RectifiedFlow(), AsVelocity(of)
    z = path.interpolate(x0, eps, T)
    target = prediction.target(path, x0, eps, T)
    wrong = target + 0.1 * x0
    as_velocity = (prediction.velocity(path, wrong, z, T) - (eps - x0)).square().flatten(1).mean(1)
    weighted = prediction.weight(path, T) * (wrong - target).square().flatten(1).mean(1)
    assert torch.allclose(as_velocity, weighted, rtol=1e-4)


def test_around_data_it_is_data_itself() -> None:
    path = RectifiedFlow()
    assert torch.allclose(AsVelocity(Data()).weight(path, T), Data().weight(path, T))


def test_f_of_narrow_data_weighs_little_where_the_noise_is_known_and_as_its_spread_at_the_noise() -> None:
    """sigma^2 / ((1 - t)^2 sigma^2 + t^2) on a rectified flow: 1 at data, sigma^2 at noise."""
    weight = AsVelocity(EdmF(0.25)).weight(RectifiedFlow(), torch.tensor([0.0, 0.5, 1.0]))
    assert torch.allclose(weight, torch.tensor([1.0, 0.0625 / (0.25 * 0.0625 + 0.25), 0.0625]))


def test_the_input_is_scaled_as_the_inner_prediction_wants_it() -> None:
    path, of = RectifiedFlow(), EdmF(0.25)
    assert torch.equal(AsVelocity(of).input_scale(path, T), of.input_scale(path, T))
    assert AsVelocity(Epsilon()).min_log_snr == Epsilon().min_log_snr
