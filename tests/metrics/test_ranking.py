"""Non-dominated sorting: the paper's Table 2, invariances, intervals and ties, and its speed."""

import time

import numpy as np
import pytest

from mmflow.metrics.ranking import Measured, non_dominated_ranks, separated_share, standings

TABLE_2 = {
    "rf": (0.247, 49.70, 0.217, 94.90, 3, 4),
    "edm(-1.20,1.20)": (0.236, 63.12, 0.200, 116.60, 5, 6),
    "eps/linear": (0.245, 48.42, 0.222, 90.34, 3, 2),
    "v/cos": (0.244, 50.74, 0.209, 97.87, 4, 5),
    "v/linear": (0.246, 51.68, 0.217, 100.76, 4, 5),
    "rf/lognorm(0.50,0.60)": (0.256, 80.41, 0.233, 120.84, 1, 1),
    "rf/mode(1.75)": (0.253, 44.39, 0.218, 94.06, 1, 3),
    "rf/lognorm(1.00,0.60)": (0.254, 114.26, 0.234, 147.69, 2, 1),
    "rf/lognorm(-0.50,1.00)": (0.248, 45.64, 0.219, 89.70, 2, 1),
    "rf/lognorm(0.00,1.00)": (0.250, 45.78, 0.224, 89.91, 2, 1),
}
"""CLIP score and FID of ImageNet and CC12M at 25 steps, and the ranks among these ten that they imply."""


def test_ranks_of_the_paper_s_table_2() -> None:
    rows = np.array(list(TABLE_2.values()))
    ranks = non_dominated_ranks(np.stack([rows[:, 0:2], rows[:, 2:4]]), (True, False))
    assert ranks.T.tolist() == rows[:, 4:6].astype(int).tolist()


def brute(points: np.ndarray) -> list[int]:
    """Front by front, all metrics to be maximised."""
    left, ranks, front = set(range(len(points))), [0] * len(points), 1
    while left:
        best = {
            i for i in left if not any((points[j] >= points[i]).all() and (points[j] > points[i]).any() for j in left)
        }
        for i in best:
            ranks[i] = front
        left, front = left - best, front + 1
    return ranks


@pytest.mark.parametrize("metrics", [1, 2, 3])
def test_ranks_are_those_of_peeling_off_fronts(metrics: int) -> None:
    rng = np.random.default_rng(metrics)
    points = rng.integers(0, 6, size=(20, 15, metrics)).astype(float)  # small integers: many ties
    ranks = non_dominated_ranks(points, (True,) * metrics)
    assert ranks.tolist() == [brute(each) for each in points]
    order = rng.permutation(15)
    assert (non_dominated_ranks(points[:, order], (True,) * metrics) == ranks[:, order]).all()
    assert (non_dominated_ranks(-points, (False,) * metrics) == ranks).all()


def test_a_missing_number_is_refused() -> None:
    with pytest.raises(ValueError, match="missing"):
        non_dominated_ranks(np.array([[[1.0, np.nan]]]), (True, False))


def measured(gap: float, error: float, seeds: int = 3) -> Measured:
    """Five variants, each better than the next by `gap` in both metrics."""
    level = np.arange(5)[None, None, :, None] * gap * np.array([-1.0, 1.0])
    noise = np.random.default_rng(0).normal(size=(4, seeds, 5, 2)) * error
    return Measured(level + noise, np.full((4, seeds, 5, 2), error), (True, False))


def test_intervals_hold_the_rank_and_clear_differences_are_no_ties() -> None:
    found = standings(list("abcde"), measured(gap=1.0, error=0.05))
    assert [each.name for each in found] == list("abcde")
    assert [each.place for each in found] == [1, 2, 3, 4, 5] and not any(each.tied for each in found)
    assert all(each.low <= each.rank <= each.high for each in found) and separated_share(found) == 1.0


def test_what_noise_decides_is_a_tie() -> None:
    found = standings(list("abcde"), measured(gap=0.0, error=1.0))
    assert all(each.tied and each.place == 1 for each in found) and separated_share(found) == 0.0
    again = standings(list("abcde"), measured(gap=0.0, error=1.0))
    assert found == again, "the same table has the same intervals"


def test_without_seeds_or_errors_there_are_no_intervals() -> None:
    found = standings(list("abcde"), measured(gap=1.0, error=0.0, seeds=1))
    assert all(np.isnan(each.low) and np.isnan(each.high) for each in found)
    assert [each.rank for each in found] == [1, 2, 3, 4, 5] and [each.place for each in found] == [1, 2, 3, 4, 5]


def test_ranks_are_averaged_over_controls_and_not_metrics() -> None:
    values = np.array([[[[10.0, 0.0], [1.0, 0.0]]], [[[0.0, 0.0], [1.0, 0.0]]], [[[0.0, 0.0], [1.0, 0.0]]]])
    ranks = Measured(values, np.zeros_like(values), (True, False)).ranks()
    assert ranks.tolist() == pytest.approx([5 / 3, 4 / 3])


def test_average_ranks_of_the_paper_are_whole_numbers_over_24_controls() -> None:
    """The paper's Table 1: 1.54, 2.08, 2.71, 5.67 and 15.58 are means of 24 ranks, and of no other unit."""
    sums = {1.54: 37, 2.08: 50, 2.71: 65, 5.67: 136, 15.58: 374}
    ladder = np.arange(1, 17, dtype=float)  # one variant on every front, so that a value is its rank
    rows = [ladder + np.zeros((24, 1))]
    for total in sums.values():
        low, above = divmod(total, 24)
        rows.append(np.array([[low + (i < above)] for i in range(24)], float))
    values = np.concatenate(rows, 1)[:, None, :, None]
    ranks = Measured(values, np.zeros_like(values), (False,)).ranks()[len(ladder) :]
    assert (24 * ranks).tolist() == pytest.approx(list(sums.values())) and np.round(ranks, 2).tolist() == list(sums)


def test_61_rows_are_ranked_in_a_moment() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(24, 1, 61, 2))
    begun = time.process_time()
    standings([str(i) for i in range(61)], Measured(values, np.full_like(values, 0.1), (True, False)))
    assert time.process_time() - begun < 3.0  # 2 s by the clock on an idle core
