"""Every path, prediction and solver carries noise to data: for a Gaussian the velocity and its flow are known exactly.

The flow is affine, so mean and covariance of what comes out follow from where four points go, without sampling.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mmflow.flow.density import Uniform
from mmflow.flow.grid import Even, Karras
from mmflow.flow.objective import FlowObjective
from mmflow.flow.path import AbstractPath
from mmflow.flow.prediction import AbstractPrediction
from mmflow.flow.shift import ConstantShift
from mmflow.flow.solver import AbstractSolver, DpmSolver2M, Euler, Heun, Midpoint
from tests.flow.gaussian import (
    COVARIANCE,
    EYE,
    MEAN,
    PATHS,
    PREDICTIONS,
    column,
    exact_field,
    perfect_network,
    transported,
)

SOLVERS = {Euler(): 1, Heun(): 2, Midpoint(): 2, DpmSolver2M(): 2}
"""Each with its order of convergence."""


def objective(path: AbstractPath, prediction: AbstractPrediction) -> FlowObjective:
    return FlowObjective(path, prediction, Uniform())


def grid(of: FlowObjective, samples: int, num_steps: int) -> Tensor:
    return Even()(ConstantShift(), (torch.zeros(samples, 1, 1, 1, 1),), num_steps, of.noise_shares).double()


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
def test_one_field_whatever_path_and_prediction(path: AbstractPath, prediction: AbstractPrediction) -> None:
    of = objective(path, prediction)
    low, high = of.noise_shares
    s = torch.linspace(max(low, 0.01), high - 0.01, 24, dtype=torch.float64)
    y = torch.randn(24, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (v,) = of.velocity(perfect_network(of))((column(y),), s, None)
    assert torch.allclose(v, exact_field((column(y),), s)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=str)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_every_solver_walks_the_same_way(
    path: AbstractPath, prediction: AbstractPrediction, solver: AbstractSolver
) -> None:
    of = objective(path, prediction)
    y = (column(torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))),)
    times = grid(of, 5, 3)
    field = of.velocity(perfect_network(of))
    (out,) = solver(lambda z, t: field(z, t, None), of.start(y), times)
    (expected,) = solver(exact_field, of.start(y), times)
    assert torch.allclose(out, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", PATHS, ids=str)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_mean_and_covariance_arrive(path: AbstractPath, solver: AbstractSolver) -> None:
    of = objective(path, PREDICTIONS[0])
    low, high = of.noise_shares
    start_mean, start_covariance = (1 - high) * MEAN, (1 - high) ** 2 * COVARIANCE + high**2 * EYE
    corners = start_mean + torch.cat([torch.zeros(1, 3, dtype=torch.float64), EYE])
    points = column(solver(exact_field, (column(corners),), grid(of, 4, 100))[0])
    matrix = (points[1:] - points[0]).mT
    # What a path has not learned below its lowest noise is left to the last step.
    tolerance = (0.03 if SOLVERS[solver] == 1 else 0.003) + 2 * low**2
    assert torch.allclose(points[0], MEAN, atol=tolerance)
    assert torch.allclose(matrix @ start_covariance @ matrix.mT, COVARIANCE, atol=tolerance)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_order_of_convergence(solver: AbstractSolver) -> None:
    """Over steps that shrink in the solver's own variable: time, or for DPM-Solver++ the log-SNR."""
    y = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start, end = 0.98, 0.02
    exact = transported(y, start, end)
    errors = []
    for steps in (64, 128, 256):
        times = torch.linspace(start, end, steps + 1, dtype=torch.float64)
        if isinstance(solver, DpmSolver2M):
            ends = torch.logit(torch.tensor([start, end], dtype=torch.float64)).tolist()
            times = torch.sigmoid(torch.linspace(*ends, steps + 1, dtype=torch.float64))
        (out,) = solver(exact_field, (column(y),), times.expand(6, -1))
        errors.append((column(out) - exact).abs().max().item())
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] == pytest.approx(SOLVERS[solver], abs=0.1), slopes


def test_second_order_pays_at_equal_evaluations() -> None:
    y = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    errors = {}
    for solver in SOLVERS:
        steps = 20 if solver.evaluations_per_step == 1 else 10
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64).expand(6, -1)
        errors[solver] = (column(solver(exact_field, (column(y),), times)[0]) - transported(y, 1.0)).abs().max().item()
    assert all(errors[solver] < errors[Euler()] / 2 for solver in SOLVERS if solver != Euler()), errors


def test_sampling_starts_with_the_spread_of_unit_data_at_that_noise_level() -> None:
    noise = (torch.ones(1, 1, 1, 1, 1, dtype=torch.float64),)
    for path in PATHS:
        of = objective(path, PREDICTIONS[0])
        t = torch.tensor([path.usable[1]], dtype=torch.float64)
        start = of.start(noise)[0].item() * (path.a(t) + path.b(t)).item()
        assert start == pytest.approx(math.hypot(path.a(t).item(), path.b(t).item()), rel=1e-6)


def test_grids_stay_where_the_objective_can_be_asked() -> None:
    z = (torch.zeros(2, 1, 1, 1, 1),)
    for path in PATHS:
        for prediction in PREDICTIONS:
            low, high = objective(path, prediction).noise_shares
            for grid in (Even(), Karras()):
                for alpha in (1.0, 3.0):
                    times = grid(ConstantShift(alpha), z, 50, (low, high))
                    assert times.shape == (2, 51) and (times[:, -1] == 0).all()
                    assert (times.diff(dim=1) <= 0).all()
                    assert times[:, 0].max() <= high + 1e-6 and times[:, -2].min() >= low - 1e-6
            assert Even()(ConstantShift(3.0), z, 5, (low, high))[0, 0].item() == pytest.approx(high, abs=1e-6)
