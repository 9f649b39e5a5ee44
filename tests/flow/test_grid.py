"""Times of sampling: shifted once, or twice as the released code does."""

import pytest
import torch

from mmflow.flow.grid import Even, Karras, ReleasedSd3
from mmflow.flow.shift import ConstantShift, SizeShift

PICTURE = (torch.zeros(1, 1, 1, 1, 1),)


def test_a_grid_is_shifted_once() -> None:
    grid = Even()(ConstantShift(3.0), PICTURE, 1000)
    assert grid[0, 999].item() == pytest.approx(0.0029940, abs=1e-6)
    assert grid[0, 0] == 1 and grid[0, 1000] == 0


def test_the_released_code_shifts_twice() -> None:
    assert ReleasedSd3()(ConstantShift(3.0), PICTURE, 1000)[0, 999].item() == pytest.approx(0.0089286, abs=1e-6)
    plain = ReleasedSd3()(ConstantShift(1.0), PICTURE, 4)
    assert torch.allclose(plain[0], torch.tensor([1.0, 0.667, 0.334, 0.001, 0.0]), atol=1e-6)


def test_sampling_starts_where_it_may_and_is_even_before_the_shift() -> None:
    grid = Even()(ConstantShift(1.0), PICTURE, 4, (0.02, 0.9))
    assert torch.allclose(grid[0], torch.tensor([0.9, 0.675, 0.45, 0.225, 0.0]), atol=1e-6)
    shifted = Even()(ConstantShift(3.0), PICTURE, 4, (0.02, 0.9))
    assert shifted[0, 0].item() == pytest.approx(0.9) and (shifted[0, 1:4] > grid[0, 1:4]).all()


def test_each_sample_has_its_own_shift() -> None:
    z = (torch.zeros(1, 1, 1, 8, 8), torch.zeros(1, 1, 4, 8, 8))
    grid = Even()(SizeShift(base_area=64), z, 10)
    assert (grid[1, 1:-1] > grid[0, 1:-1]).all()


def test_no_steps_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"num_steps.*0"):
        Even()(ConstantShift(), PICTURE, 0)
    with pytest.raises(ValueError, match="rho"):
        Karras(rho=0.0)
