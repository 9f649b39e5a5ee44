"""The objective against closed forms, and its invariance to how samples are grouped."""

import pytest
import torch
from torch import Tensor

from mmflow.batch import Conditioning, Known, TextFeatures
from mmflow.flow.density import LogitNormal, Uniform
from mmflow.flow.objective import FlowObjective
from mmflow.flow.prediction import AbstractPrediction, Data, Velocity
from mmflow.flow.shift import SizeShift


def constant(value: float):
    return lambda z, t, conditioning: tuple(torch.full_like(x, value) for x in z)


def bag() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    g = torch.Generator().manual_seed(1)
    shapes = [(2, 3, 1, 8, 8), (3, 3, 4, 4, 8)]
    x0 = tuple(torch.randn(s, generator=g) for s in shapes)
    eps = tuple(torch.randn(s, generator=g) for s in shapes)
    return x0, eps, torch.rand(5, generator=g)


def test_velocity_loss_of_a_constant_network() -> None:
    x0, eps, u = bag()
    loss, t = FlowObjective(density=Uniform())(constant(0.5), x0, None, u, eps)
    expected = torch.cat([(0.5 - (e - x)).square().flatten(1).mean(1) for x, e in zip(x0, eps, strict=True)])
    assert torch.allclose(loss, expected) and torch.equal(t, u)


def test_velocity_loss_is_the_weighted_epsilon_loss_of_eq_12() -> None:
    """(b lambda' / 2)^2 |eps_theta - eps|^2 with eps_theta = z + (1 - t) v."""
    x0, eps, u = bag()
    objective = FlowObjective()
    loss, t = objective(constant(0.3), x0, None, u, eps)
    expected = []
    for x, e, s in zip(x0, eps, t.split([2, 3]), strict=True):
        s5 = s.view(-1, 1, 1, 1, 1)
        z = (1 - s5) * x + s5 * e
        error = (z + (1 - s5) * 0.3) - e
        expected.append((1 / (1 - s)).square() * error.square().flatten(1).mean(1))
    assert torch.allclose(loss, torch.cat(expected), rtol=1e-4)


@pytest.mark.parametrize("prediction", [Velocity(), Data()])
def test_a_sample_has_the_loss_it_would_have_alone(prediction: AbstractPrediction) -> None:
    x0, eps, u = bag()
    objective = FlowObjective(prediction=prediction, shift=SizeShift(base_area=64))

    def network(z, t, conditioning):
        parts = t.split([len(x) for x in z])
        return tuple(torch.sin(3 * x) * p.view(-1, 1, 1, 1, 1) for x, p in zip(z, parts, strict=True))

    together, _ = objective(network, x0, None, u, eps)
    alone = []
    for group, (x, e) in enumerate(zip(x0, eps, strict=True)):
        for i in range(len(x)):
            place = i + 2 * group
            alone.append(objective(network, (x[i : i + 1],), None, u[place : place + 1], (e[i : i + 1],))[0])
    assert torch.allclose(together, torch.cat(alone), rtol=1e-5)


def test_shift_moves_the_time_of_larger_samples_up() -> None:
    x0, _, u = bag()
    objective = FlowObjective(density=LogitNormal(), shift=SizeShift(base_area=64))
    t = objective.time(u, x0)
    plain = FlowObjective().time(u, x0)
    assert torch.allclose(t[:2], plain[:2])
    assert torch.allclose(
        torch.logit(t[2:]), torch.logit(plain[2:]) + torch.tensor(4 * 32 / 64).sqrt().log(), atol=1e-5
    )


def test_only_unknown_positions_count() -> None:
    x0, eps, u = bag()
    masks = tuple(torch.zeros(len(x), 1, *x.shape[2:]) for x in x0)
    for mask in masks:
        mask[..., :2] = 1
    text = TextFeatures(torch.zeros(5, 4), torch.ones(5, 1, dtype=torch.int64), torch.zeros(5, 4))
    known = tuple(Known(x, m) for x, m in zip(x0, masks, strict=True))
    loss, _ = FlowObjective()(constant(0.0), x0, Conditioning(text, known), u, eps)
    expected = [(e - x)[..., :2].square().flatten(1).mean(1) for x, e in zip(x0, eps, strict=True)]
    assert torch.allclose(loss, torch.cat(expected), rtol=1e-5)


def test_an_empty_bag_has_no_losses() -> None:
    loss, t = FlowObjective()(
        constant(0.0), (torch.zeros(0, 3, 1, 8, 8),), None, torch.zeros(0), (torch.zeros(0, 3, 1, 8, 8),)
    )
    assert loss.shape == t.shape == (0,)
