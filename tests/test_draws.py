"""Named randomness: the same name gives the same numbers, another name gives others."""

import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from scipy import stats

from mmflow import draws

UNIFORM = [0.95188367, 0.35310179]
NORMAL = [0.482802, 0.7653632]
NAME = (0, "eps", ("source", "00000", "000000001"), 0)


def test_same_name_same_numbers_in_any_order_and_process() -> None:
    first = draws.normal(*NAME, (4,))
    draws.normal(1, *NAME[1:], (9,))
    assert torch.equal(first, draws.normal(*NAME, (4,)))
    code = f"from mmflow import draws; print(draws.normal(*{NAME!r}, (4,)).tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(first.tolist())


def test_numbers_are_these() -> None:
    """A change here would change every picture of every seed, and break resuming: it must be on purpose."""
    assert draws.uniform(0, "u", ("a",), 0, (2,)).tolist() == pytest.approx(UNIFORM, abs=1e-7)
    assert draws.normal(0, "eps", ("a",), 0, (2,)).tolist() == pytest.approx(NORMAL, abs=1e-6)


@pytest.mark.parametrize(
    "other", [(1, *NAME[1:]), (0, "u", *NAME[2:]), (*NAME[:2], ("source", "00000", "000000002"), 0), (*NAME[:3], 1)]
)
def test_each_part_of_the_name_matters(other: tuple) -> None:
    assert not torch.equal(draws.normal(*NAME, (8,)), draws.normal(*other, (8,)))


def test_parts_of_a_key_do_not_run_together() -> None:
    assert draws.uniform(0, "u", ("ab", "c"), 0) != draws.uniform(0, "u", ("a", "bc"), 0)


def test_a_shorter_draw_is_the_start_of_a_longer_one() -> None:
    assert torch.equal(draws.normal(*NAME, (4,)), draws.normal(*NAME, (8,))[:4])


def test_distributions() -> None:
    keys = range(4000)
    u = torch.stack([draws.uniform(0, "u", (k,), 0) for k in keys])
    n = torch.stack([draws.normal(0, "n", (k,), 0) for k in keys])
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.01
    assert stats.kstest(n.numpy(), "norm").pvalue > 0.01
    assert u.dtype == n.dtype == torch.float32


def test_choice_follows_the_weights() -> None:
    counts = [0, 0, 0]
    for k in range(3000):
        counts[draws.choice(0, "c", (k,), 0, [1.0, 0.0, 3.0])] += 1
    assert counts[1] == 0
    assert counts[2] / 3000 == pytest.approx(0.75, abs=0.03)
    with pytest.raises(ValueError, match="weights"):
        draws.choice(0, "c", (0,), 0, [0.0, 0.0])


def test_low_discrepancy_is_even_over_any_run_of_positions() -> None:
    for start in (0, 12345, 10**9):
        u = sorted(draws.low_discrepancy(0, "u", 0, start + i) for i in range(256))
        gaps = [b - a for a, b in pairwise(u)]
        assert max(gaps) < 3 / 256
