"""Jobs over processes: results in order, a count that ends at the whole, and what happens when one dies."""

import os

import pytest

from mmflow.data.pool import Advance, run_all


def square(job: int, advance: Advance) -> int:
    for _ in range(job):
        advance(1)
    if job == 13:
        os._exit(9)  # as if a decoder crashed
    if job == 17:
        raise OSError("disk full")
    return job * job


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_all_is_counted(workers: int) -> None:
    counted: list[int] = []
    assert list(run_all(square, [5, 1, 3, 0, 2], workers, counted.append)) == [25, 1, 9, 0, 4]
    assert sum(counted) == 11 and min(counted) >= 0


def test_a_process_that_dies_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"a worker process died.*--resume"):
        list(run_all(square, [1, 13, 2, 3], 2, lambda _: None))


def test_an_error_of_a_job_is_the_error_of_all() -> None:
    with pytest.raises(OSError, match="disk full"):
        list(run_all(square, [1, 17, 2], 2, lambda _: None))
