"""Solvers: fields with known integrals, exact transport of a Gaussian, and the order of convergence."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mmflow.flow.grid import Even
from mmflow.flow.guidance import guided
from mmflow.flow.shift import SizeShift
from mmflow.flow.solver import AbstractSolver, DpmSolver2M, Euler, Heun, Midpoint

Groups = tuple[Tensor, ...]


def times(steps: int, samples: int = 1) -> Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64).expand(samples, -1)


def gaussian_velocity(mean: float, std: float):
    """Exact marginal velocity of a rectified flow whose data is N(mean, std^2): E[eps - x0 | z_t] (eq 6)."""

    def velocity(z: Groups, t: Tensor) -> Groups:
        s = t.view(-1, 1, 1, 1, 1)
        variance = (1 - s).square() * std**2 + s.square()
        centred = z[0] - (1 - s) * mean
        return ((s - (1 - s) * std**2) / variance * centred - mean,)

    return velocity


def transported(z: Tensor, mean: float, std: float) -> Tensor:
    """The flow of that field maps N(0, 1) onto N(mean, std^2) monotonically, so affinely."""
    return mean + std * z


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Heun(), 2)])
def test_gaussian_is_transported_with_the_order_of_the_solver(solver: AbstractSolver, order: int) -> None:
    z = torch.randn(1, 1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (32, 64, 128):
        (out,) = solver(gaussian_velocity(1.5, 0.4), (z,), times(steps))
        errors.append((out - transported(z, 1.5, 0.4)).abs().max().item())
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] == pytest.approx(order, abs=0.15)
    assert errors[-1] < 0.02


def test_straight_paths_are_exact_in_one_euler_step() -> None:
    x0, eps = torch.randn(2, 3, 1, 4, 4), torch.randn(2, 3, 1, 4, 4)
    (out,) = Euler()(lambda z, t: (eps - x0,), (eps,), torch.tensor([[1.0, 0.0]]).expand(2, -1))
    assert torch.allclose(out, x0, atol=1e-6)


def test_evaluations_are_as_stated() -> None:
    for solver, expected in ((Euler(), 5), (Heun(), 9), (Midpoint(), 9), (DpmSolver2M(), 5)):
        calls = []

        def velocity(z: Groups, t: Tensor, calls: list[Tensor] = calls) -> Groups:
            calls.append(t)
            return z

        solver(velocity, (torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64),), times(5))
        assert len(calls) == expected == solver.evaluations(5)
        assert min(float(t) for t in calls) > 0, "clean data has no velocity"


def test_each_sample_follows_its_own_grid() -> None:
    z = (torch.ones(1, 1, 1, 2, 2), torch.ones(1, 1, 4, 2, 2))
    grid = Even()(SizeShift(base_area=4), z, 10)
    assert torch.allclose(grid[:, 0], torch.ones(2)) and torch.allclose(grid[:, -1], torch.zeros(2))
    assert (grid[1, 1:-1] > grid[0, 1:-1]).all()
    seen = []

    def velocity(groups: Groups, t: Tensor) -> Groups:
        seen.append(t)
        return groups

    Euler()(velocity, z, grid)
    assert torch.equal(torch.stack(seen, 1), grid[:, :-1])


def test_guidance_extrapolates_per_sample_and_keeps_groups_apart() -> None:
    z = (torch.zeros(2, 1, 1, 1, 1), torch.zeros(1, 1, 2, 1, 1))

    def velocity(groups: Groups, t: Tensor, conditioning: Tensor) -> Groups:
        values = conditioning.split([len(x) for x in groups])
        return tuple(x + v.view(-1, 1, 1, 1, 1) for x, v in zip(groups, values, strict=True))

    alone = torch.tensor([1.0, 2.0, 3.0])
    paired = torch.tensor([1.0, 2.0, 0.0, 0.0, 3.0, 1.0])
    out = guided(velocity, alone, paired, torch.tensor([1.0, 2.0, 3.0]))(z, torch.ones(3))
    assert out[0].flatten().tolist() == [1.0, 4.0]
    assert out[1].flatten().tolist() == [7.0, 7.0]
    plain = guided(velocity, alone, paired, torch.ones(3))(z, torch.ones(3))
    assert plain[0].flatten().tolist() == [1.0, 2.0]


def test_guidance_holds_within_its_interval_only() -> None:
    z = (torch.zeros(2, 1, 1, 1, 1),)
    sizes: list[int] = []

    def velocity(groups: Groups, t: Tensor, conditioning: Tensor) -> Groups:
        sizes.append(len(conditioning))
        return (conditioning.view(-1, 1, 1, 1, 1),)

    field = guided(velocity, torch.ones(2), torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.full((2,), 3.0), (0.2, 0.7))
    for t, expected in (([0.9, 0.9], [1, 1]), ([0.9, 0.5], [1, 3]), ([0.2, 0.7], [3, 3]), ([0.1, 0.0], [1, 1])):
        assert field(z, torch.tensor(t))[0].flatten().tolist() == expected
    assert sizes == [2, 4, 4, 2], "outside of the interval the null half is not computed"


def test_dpm_solver_is_exact_where_the_data_is_known() -> None:
    x0, eps = torch.randn(2, 3, 1, 4, 4).double(), torch.randn(2, 3, 1, 4, 4).double()
    (out,) = DpmSolver2M()(lambda z, t: ((z[0] - x0) / t.view(-1, 1, 1, 1, 1),), (eps,), times(6, 2))
    assert torch.allclose(out, x0)


def test_a_step_that_stands_still_does_no_harm() -> None:
    """Grids are cut at the lowest noise that a path has: their last steps may have no length."""
    grid = torch.tensor([[1.0, 0.5, 0.03, 0.03, 0.03, 0.0]], dtype=torch.float64)
    short = torch.tensor([[1.0, 0.5, 0.03, 0.0]], dtype=torch.float64)
    z = torch.randn(1, 1, 1, 4, 4, dtype=torch.float64)
    for solver in (Euler(), Heun(), Midpoint(), DpmSolver2M()):
        (long,) = solver(gaussian_velocity(1.5, 0.4), (z,), grid)
        assert torch.allclose(long, solver(gaussian_velocity(1.5, 0.4), (z,), short)[0])
