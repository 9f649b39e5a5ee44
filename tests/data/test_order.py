"""The order of a sharded source: permutations against their definition, and passes that are gone on with."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from mmflow.data.order import Begun, ShuffledShards
from mmflow.data.permutation import Permutation

SIZES = (5, 1, 0, 7, 3, 2)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_a_permutation_has_every_number_once(n: int) -> None:
    permutation = Permutation(n, 0, ("a",), 0)
    whole = permutation(np.arange(n))
    assert sorted(whole.tolist()) == list(range(n))
    assert [int(permutation(np.array([i]))[0]) for i in range(0, n, 97)] == whole[::97].tolist()


def test_permutations_are_of_seed_key_and_visit_and_look_random() -> None:
    n = 5000
    made = [
        Permutation(n, *of)(np.arange(n)) for of in ((0, ("a",), 0), (1, ("a",), 0), (0, ("b",), 0), (0, ("a",), 1))
    ]
    for a, b in pairwise([np.arange(n), *made, made[0]]):
        # of two independent permutations about one number stays where it is, and ranks do not go together
        assert (a == b).sum() < 10 and abs(np.corrcoef(a, b)[0, 1]) < 5 / n**0.5
    assert (made[0] == Permutation(n, 0, ("a",), 0)(np.arange(n))).all()
    # every number comes to every place: chi-square over 8 x 8 cells of (place, number) in 200 small permutations
    cells = Counter(
        (i, x) for v in range(800) for i, x in enumerate(Permutation(8, 0, ("c",), v)(np.arange(8)).tolist())
    )
    assert sum((cells[i, x] - 100) ** 2 / 100 for i in range(8) for x in range(8)) < 49 + 5 * (2 * 49) ** 0.5


def test_a_far_place_of_a_huge_range_needs_no_table() -> None:
    far = np.array([0, 10**11, 10**12 - 1])
    assert (made := Permutation(10**12, 0, ("a",), 0)(far)).max() < 10**12 and len(set(made.tolist())) == 3
    with pytest.raises(ValueError, match="got n 0"):
        Permutation(0, 0, (), 0)


@pytest.mark.parametrize("window", [1, 2, 16])
def test_each_sample_comes_once_per_pass(window: int) -> None:
    order = ShuffledShards(SIZES, 0, "a", window)
    every = {(shard, row) for shard, size in enumerate(SIZES) for row in range(size)}
    for visit in range(3):
        drawn = [order(nth) for nth in range(visit * order.total, (visit + 1) * order.total)]
        assert {(shard, row) for shard, row, _ in drawn} == every and len(drawn) == len(every)
        assert {v for *_, v in drawn} == {visit}


def test_only_the_shards_of_one_window_are_mixed() -> None:
    sizes, window = (6,) * 6, 2
    order = ShuffledShards(sizes, 0, "a", window)
    mixed = 0
    for visit in range(4):
        shards = [order(visit * 36 + n)[0] for n in range(36)]
        for start in range(0, 36, 12):
            part = shards[start : start + 12]
            assert sorted(Counter(part).values()) == [6, 6]
            mixed += part != sorted(part) and part != sorted(part, reverse=True)
    assert mixed == 12


def test_the_order_is_of_seed_name_and_pass() -> None:
    def order(seed: int = 0, name: str = "a", visit: int = 0) -> list[tuple[int, int]]:
        shuffled = ShuffledShards((20, 20), seed, name)
        return [shuffled(40 * visit + n)[:2] for n in range(40)]

    assert order() == order()
    assert len({tuple(each) for each in (order(), order(seed=1), order(name="b"), order(visit=1))}) == 4


def test_any_place_may_be_asked_at_any_time() -> None:
    order = ShuffledShards(SIZES, 0, "a", window=2)
    straight = [order(nth) for nth in range(90)]
    mixed = np.random.default_rng(0).permutation(90).tolist()
    assert [order(nth) for nth in mixed] == [straight[nth] for nth in mixed]
    assert [ShuffledShards(SIZES, 0, "a", window=2)(nth) for nth in (89, 17)] == [straight[89], straight[17]]


def taken_of(begun: Begun, sizes: tuple[int, ...] = SIZES) -> set[tuple[int, int]]:
    return {
        (shard, int(n)) for shard, part in begun.taken.items() for n in (range(sizes[shard]) if part is None else part)
    }


@pytest.mark.parametrize("window", [1, 2, 16])
def test_what_a_pass_has_had_is_known_at_every_place(window: int) -> None:
    order = ShuffledShards(SIZES, 3, "a", window)
    for nth in range(2 * order.total + 1):
        visit, within = divmod(nth, order.total)
        begun = order.after(nth)
        assert begun.visit == visit
        assert taken_of(begun) == {order(n)[:2] for n in range(nth - within, nth)}


def test_a_pass_is_ended_by_other_orders_without_repeats() -> None:
    """Three orders after each other, with other seeds and windows, make one pass; the next pass is whole."""
    first = ShuffledShards(SIZES, 0, "a", 2)
    second = ShuffledShards(SIZES, 1, "a", 1, first.after(5))
    third = ShuffledShards(SIZES, 2, "b", 3, second.after(6))
    assert (second.left, third.left) == (13, 7)
    drawn = [first(n) for n in range(5)] + [second(n) for n in range(6)] + [third(n) for n in range(7)]
    assert len({each[:2] for each in drawn}) == len(drawn) == first.total and {v for *_, v in drawn} == {0}
    after = [third(n) for n in range(7, 25)]
    assert len({each[:2] for each in after}) == first.total and {v for *_, v in after} == {1}
    assert third.after(7) == Begun(1, {}) and third(7 + 18)[2] == 2
    ended = ShuffledShards(SIZES, 2, "b", 3, Begun(4, dict.fromkeys(range(len(SIZES)))))
    assert ended.left == 0 and ended(0)[2] == 5
