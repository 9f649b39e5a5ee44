"""How much a gradient varies between steps: against its closed form, and less where t is drawn better."""

import math
from dataclasses import dataclass, replace
from typing import final

import pytest
import torch
from torch import Tensor, nn

from mmflow.flow.adaptive import Adaptive
from mmflow.flow.density import AbstractSampler, AsWeight, LogitNormal, Uniform
from mmflow.flow.objective import FlowObjective
from mmflow.study.variance import Samples, densities, even, independent, spread

BATCH = 32


class Offset(nn.Module):
    """Puts out one number that is learned: at data 0 and noise 1 its loss is (c - 1)^2, whatever t is."""

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        self.c, self.slope = nn.Parameter(torch.tensor(0.5)), slope

    def forward(self, z: tuple[Tensor, ...], t: Tensor, conditioning: object) -> tuple[Tensor, ...]:
        return (torch.zeros_like(z[0]) + self.c * torch.exp(self.slope * t).reshape(-1, 1, 1, 1, 1),)


def steps(i: int) -> Samples:
    shape = (BATCH, 1, 1, 2, 2)
    return (torch.zeros(shape),), None, (torch.ones(shape),)


@final
@dataclass(frozen=True)
class Weighed(AbstractSampler):
    """Of which nothing is drawn but the weight: 1 + u."""

    def quantile(self, u: Tensor) -> Tensor:
        return u

    def pdf(self, t: Tensor) -> Tensor:
        return 1 + t


def test_the_variance_is_that_of_the_closed_form() -> None:
    """Gradient of a step: mean of (1 + t) 2 (c - 1) = -(1 + mean t), with a variance of 1 / 12 / B."""
    objective = FlowObjective(density=AsWeight(Weighed()))
    found = spread(Offset(), objective, steps, independent, 2048)
    assert found.gradient == pytest.approx(1 / 12 / BATCH, rel=0.1)
    assert abs(found.gradient - 1 / 12 / BATCH) < 3 * found.gradient_error < 1 / 12 / BATCH
    assert found.loss == pytest.approx(0.25**2 / 12 / BATCH, rel=0.1)
    assert spread(Offset(), objective, steps, even, 64).gradient < 0.1 * found.gradient
    assert spread(Offset(), FlowObjective(density=Uniform()), steps, independent, 16).gradient == pytest.approx(0)


def test_the_adaptive_density_learns_here_and_lessens_the_variance() -> None:
    network, objective = Offset(slope=4.0), FlowObjective(density=Uniform())
    found = densities(network, objective, steps)
    assert list(found) == ["plain", "adaptive"] and found["plain"] == Uniform()
    plain, adaptive = (
        spread(network, replace(objective, density=each), steps, independent, 512) for each in found.values()
    )
    assert adaptive.gradient < 0.7 * plain.gradient
    again = found["adaptive"].quantile(torch.tensor([0.3]))
    spread(network, replace(objective, density=found["adaptive"]), steps, independent, 16)
    assert torch.equal(found["adaptive"].quantile(torch.tensor([0.3])), again), "measuring teaches nothing"


def test_an_adaptive_objective_is_measured_against_its_base_and_keeps_its_own_state() -> None:
    density = Adaptive(LogitNormal(), bins=4)
    found = densities(Offset(slope=4.0), FlowObjective(density=density), steps)
    assert found["plain"] == LogitNormal() and not density.counts.any()
    assert not torch.allclose(found["adaptive"].weight(torch.tensor([0.1, 0.9])), torch.ones(2), rtol=0.05)
    assert list(densities(Offset(), FlowObjective(density=AsWeight(LogitNormal())), steps)) == ["plain"]


@pytest.mark.parametrize("num", [8, 20, 0])
def test_too_few_steps_say_nothing(num: int) -> None:
    with pytest.raises(ValueError, match=rf"multiple of 8 from 16 on, got {num}"):
        spread(Offset(), FlowObjective(), steps, independent, num)


def test_even_uniforms_go_on_from_step_to_step() -> None:
    u = torch.cat([even(i, 16) for i in range(4)]).sort().values
    assert u.diff().max() < 3 / 64 and math.isclose(float(u.mean()), 0.5, abs_tol=0.02)
    assert torch.equal(independent(3, 5), independent(3, 5)) and not torch.equal(independent(3, 5), independent(4, 5))
