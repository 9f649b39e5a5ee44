"""The adaptive density: it stays a density, it leaves the expectation alone, and it lessens the variance."""

import pytest
import torch
from torch import Tensor

from mmflow.flow.adaptive import Adaptive
from mmflow.flow.density import LogitNormal, Uniform
from mmflow.flow.objective import FlowObjective


def taught(floor: float = 0.1, base=None) -> Adaptive:
    """One that has seen gradients that grow fast with t."""
    density = Adaptive(base or LogitNormal(), bins=16, floor=floor, decay=0.0)
    t = density.base.quantile((torch.arange(8000) + 0.5) / 8000)
    density.observe(t, moment(t))
    return density


def moment(t: Tensor) -> Tensor:
    return torch.exp(8 * t)


def test_untaught_it_is_its_base() -> None:
    u = torch.linspace(0.001, 0.999, 200)
    density = Adaptive(LogitNormal(0.5, 0.8))
    assert torch.allclose(density.quantile(u), density.base.quantile(u), atol=1e-5)
    assert torch.allclose(density.weight(u), torch.ones(200))


@pytest.mark.parametrize("base", [Uniform(), LogitNormal()], ids=str)
def test_it_is_a_density_and_its_draws_follow_it(base) -> None:
    density = taught(base=base)
    t = torch.linspace(0, 1, 200_001, dtype=torch.float64)[1:-1]
    mass = torch.cumulative_trapezoid(density.pdf(t), t)
    assert mass[-1].item() == pytest.approx(1.0, abs=1e-3)
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    at = torch.searchsorted(t, density.quantile(u)).clamp(max=len(mass))
    assert torch.allclose(mass[at - 1], u, atol=2e-3)
    assert (density.quantile(u).diff() > 0).all()


def test_the_expectation_is_the_base_s() -> None:
    density, u = taught(), (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t = density.quantile(u)
    for f in (torch.sin, torch.exp, lambda x: x.square()):
        weighed, plain = (density.weight(t) * f(t)).mean(), f(density.base.quantile(u)).mean()
        assert weighed.item() == pytest.approx(plain.item(), rel=1e-4)


def test_variance_is_less_and_weights_stay_below_the_floor_s_inverse() -> None:
    density, g = taught(), torch.Generator().manual_seed(0)
    u = torch.rand(200_000, generator=g)
    t = density.quantile(u)
    adaptive, plain = density.weight(t) * moment(t).sqrt(), moment(density.base.quantile(u)).sqrt()
    assert adaptive.var() < 0.2 * plain.var()
    assert density.weight(t).max() <= 1 / density.floor + 1e-4
    assert taught(floor=1.0).heights().tolist() == pytest.approx([1.0] * 16)


def test_it_learns_from_the_objective_and_forgets() -> None:
    density = Adaptive(Uniform(), bins=4, decay=0.5)
    objective = FlowObjective(density=density)
    x0, eps = (torch.zeros(64, 3, 1, 2, 2),), (torch.ones(64, 3, 1, 2, 2),)

    def network(z: tuple[Tensor, ...], t: Tensor, conditioning: object) -> tuple[Tensor, ...]:
        wrong = torch.where(t > 0.75, 3.0, 0.1).reshape(-1, 1, 1, 1, 1)
        return (torch.ones_like(z[0]) + wrong,)

    for _ in range(5):
        objective(network, x0, None, torch.rand(64), eps)
    heights = density.heights()
    assert heights[3] > 5 * heights[0] and heights.mean().item() == pytest.approx(1.0)
    before = density.counts.clone()
    objective.at(network, x0, None, torch.full((64,), 0.5), eps)
    assert torch.equal(before, density.counts), "validation teaches nothing"
    copy = Adaptive(Uniform(), bins=4)
    copy.load_state_dict(density.state_dict())
    assert torch.equal(copy.heights(), heights)


@pytest.mark.parametrize("arguments", [{"bins": 1}, {"floor": 0.0}, {"decay": 1.0}])
def test_impossible_settings_are_errors(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Adaptive(Uniform(), **arguments)
