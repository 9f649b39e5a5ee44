"""Equation 23 and its oracles."""

import pytest
import torch

from mmflow.flow.density import LogitNormal
from mmflow.flow.shift import ConstantShift, SizeShift, shift_time


def test_oracles() -> None:
    t = torch.tensor([0.5, 0.001], dtype=torch.float64)
    assert torch.allclose(shift_time(t, 3.0), torch.tensor([0.75, 0.0029940]).double(), atol=1e-7)
    assert shift_time(shift_time(t, 3.0), 3.0)[1].item() == pytest.approx(0.0089286, abs=1e-7)
    quantiles = shift_time(LogitNormal().quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])), 3.0)
    assert torch.allclose(quantiles, torch.tensor([0.367, 0.604, 0.750, 0.855, 0.940]), atol=1e-3)


def test_logit_moves_by_log_alpha_and_ends_stay() -> None:
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert torch.allclose(torch.logit(shift_time(t, 2.5)), torch.logit(t) + torch.tensor(2.5).double().log())
    assert torch.equal(shift_time(torch.tensor([0.0, 1.0]), 3.0), torch.tensor([0.0, 1.0]))


def test_shifts_compose_by_product() -> None:
    t = torch.rand(100, dtype=torch.float64)
    assert torch.allclose(shift_time(shift_time(t, 2.0), 3.0), shift_time(t, 6.0))


def test_size_shift_is_the_root_of_the_ratio_of_pixels() -> None:
    shift = SizeShift(base_area=32 * 32)
    assert shift.alpha(1, 32, 32) == 1
    assert shift.alpha(1, 64, 64) == pytest.approx(2)
    assert shift.alpha(4, 32, 32) == pytest.approx(2)
    assert SizeShift(base_area=1024, frame_power=0.0).alpha(16, 32, 32) == 1


def test_alphas_are_one_per_sample_in_the_order_of_the_groups() -> None:
    groups = (torch.zeros(2, 3, 1, 8, 8), torch.zeros(0, 3, 1, 4, 4), torch.zeros(1, 3, 4, 8, 8))
    assert torch.equal(SizeShift(base_area=64).alphas(groups), torch.tensor([1.0, 1.0, 2.0]))
    assert torch.equal(ConstantShift(3.0).alphas(groups), torch.full((3,), 3.0))


@pytest.mark.parametrize("arguments", [(0,), (64, 0.0), (64, 1.0, -1.0)])
def test_impossible_sizes_are_errors(arguments: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="base_area"):
        SizeShift(*arguments)  # type: ignore[arg-type]
