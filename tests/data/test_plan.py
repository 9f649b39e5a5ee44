"""The order of the data against its closed forms: shares, steps, and hands that together hold every sample once."""

import pytest

from mmflow.data.deal import Dealing
from mmflow.data.interleave import Interleave
from mmflow.data.plan import Filling, Item, Plan, Step

WEIGHTS = [
    (1.0, 1.0),
    (0.6, 0.4),
    (0.97, 0.03),
    (1.0, 0.0),
    (1.0, 1.0, 1.0),
    (0.5, 0.3, 0.2),
    (2.0, 0.0, 1.0),
    (4.0, 3.0, 2.0, 1.0),
    (0.97, 0.01, 0.0, 0.02),
]


def running_errors(weights: tuple[float, ...], positions: int) -> list[list[float]]:
    """Per source: samples that it got of the first p places, beyond its share of them."""
    interleave, total = Interleave(weights), sum(weights)
    counts = [0] * len(weights)
    errors: list[list[float]] = [[0.0] for _ in weights]
    for position in range(positions):
        source, nth = interleave(position)
        assert nth == counts[source], "each source's own samples follow each other without a gap"
        counts[source] += 1
        for i, weight in enumerate(weights):
            errors[i].append(counts[i] - weight / total * (position + 1))
    return errors


@pytest.mark.parametrize("weights", WEIGHTS)
def test_shares_are_exact_over_any_stretch(weights: tuple[float, ...]) -> None:
    """Largest minus smallest running error is the error of the worst stretch; a source may lag by one per other."""
    others = sum(weight > 0 for weight in weights) - 1
    for weight, errors in zip(weights, running_errors(weights, 1200), strict=True):
        worst = max(errors) - min(errors)
        assert worst == 0 if weight == 0 else worst < max(others, 1e-6)


def test_equal_shares_alternate() -> None:
    two, three = Interleave((1, 1)), Interleave((1, 1, 1))
    assert {two(p)[0] for p in (10, 11)} == {0, 1} and [two(p)[0] for p in range(2, 40)] == [
        two(p)[0] for p in range(38)
    ]
    assert all({three(3 * turn + i)[0] for i in range(3)} == {0, 1, 2} for turn in range(50))


def test_a_far_place_needs_no_walk() -> None:
    """The first 10^12 places hold each source's exact share, so the counts that go with a far place are known."""
    far = 10**12
    for weights in ((0.6, 0.4), (0.5, 0.3, 0.2)):
        interleave, seen = Interleave(weights), set()
        for position in range(far, far + 20):
            source, nth = interleave(position)
            assert abs(nth - weights[source] * position) < 2
            seen.add((source, nth))
        assert len(seen) == 20 and {source for source, _ in seen} == set(range(len(weights)))


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (1.0, -0.5)])
def test_unusable_weights(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="non-negative with a positive sum"):
        Interleave(weights)


class Counting:
    """A source whose nth sample is n, in the shape that its number says."""

    def __init__(self, *shapes: tuple[int, int, int]) -> None:
        self.shapes = shapes

    def locate(self, source: int, nth: int, position: int) -> Item:
        return Item(source, nth, 0, position, (str(source), nth), self.shapes[nth % len(self.shapes)])


PICTURE, WIDE, CLIP = (1, 32, 32), (1, 16, 64), (8, 32, 32)


def plan(batch_size: int = 4, window: int | None = 10, end: int | None = None) -> Plan:
    sources = [Counting(PICTURE, WIDE, PICTURE), Counting(CLIP)]
    return Plan(sources, (0.6, 0.4), batch_size, window, end)


def test_a_step_is_short_at_the_edge_of_a_window_and_at_the_end() -> None:
    steps = list(plan(end=27).steps(0))
    assert [len(step.items) for step in steps] == [4, 4, 2, 4, 4, 2, 4, 3]
    assert [step.next_position for step in steps] == [4, 8, 10, 14, 18, 20, 24, 27]
    assert [item.position for step in steps for item in step.items] == list(range(27))
    assert plan(end=27).step(27) is None and plan(end=27).step(999) is None


def test_a_window_of_whole_steps_has_no_short_ones() -> None:
    whole = plan(window=None)
    assert {len(step.items) for step, _ in zip(whole.steps(0), range(200), strict=False)} == {4}


def test_every_sample_of_each_source_comes_once_and_in_order() -> None:
    items = [item for step in plan(end=100).steps(0) for item in step.items]
    for source, num in ((0, 60), (1, 40)):
        assert [item.row for item in items if item.source == source] == list(range(num))


@pytest.mark.parametrize("taken", range(9))
def test_from_any_step_on_the_rest_is_the_same(taken: int) -> None:
    steps = list(plan(end=27).steps(0))
    position = 0 if taken == 0 else steps[taken - 1].next_position if taken <= len(steps) else 27
    assert list(plan(end=27).steps(position)) == steps[taken:]
    assert plan().num_steps(0, position) == min(taken, len(steps))


@pytest.mark.parametrize(("batch_size", "window"), [(0, 4), (4, 0)])
def test_sizes_below_one(batch_size: int, window: int) -> None:
    with pytest.raises(ValueError, match=r"at least 1.*got 0"):
        plan(batch_size, window)


def voxels(item: Item) -> float:
    t, h, w = item.shape
    return float(t * h * w)


FILLINGS = {
    "budget": Filling(budget=20_000, cost=voxels),
    "buckets": Filling(4, bucketed=True),
    "budget in buckets": Filling(budget=20_000, cost=voxels, bucketed=True),
}


def filled(name: str, end: int | None = 57, **arguments) -> Plan:
    return Plan([Counting(PICTURE, WIDE, PICTURE), Counting(CLIP)], (0.6, 0.4), FILLINGS[name], 25, end, **arguments)


@pytest.mark.parametrize("name", FILLINGS)
def test_every_filling_has_every_sample_once_and_goes_on_from_any_step(name: str) -> None:
    steps = list(filled(name).steps(0))
    assert sorted(item.position for step in steps for item in step.items) == list(range(57))
    assert steps[-1].next_position == 57 and {25, 50} < {step.next_position for step in steps}
    for i, step in enumerate(steps[:-1]):
        assert list(filled(name).steps(step.next_position)) == steps[i + 1 :]
        assert filled(name).num_steps(step.next_position, 57) == len(steps) - i - 1
    if "budget" in name:
        assert all(sum(map(voxels, step.items)) <= 20_000 for step in steps)
    if "buckets" in name:
        assert all(len({item.shape for item in step.items}) == 1 for step in steps)
        shapes = [step.items[0].shape for step in steps]
        assert shapes != sorted(shapes), "the shapes of a window's steps are mixed"


def test_a_sample_above_the_budget_is_a_step_of_its_own() -> None:
    tight = Plan([Counting(PICTURE, CLIP)], (1.0,), Filling(budget=2000, cost=voxels), 25, 10)
    assert [len(step.items) for step in tight.steps(0)] == [1] * 10


@pytest.mark.parametrize("name", FILLINGS)
def test_what_is_excluded_moves_no_other_sample(name: str) -> None:
    gone = {3, 4, 5, 30}
    with_all = list(filled(name).steps(0))
    without = list(filled(name, excluded=lambda item: item.position in gone).steps(0))
    assert [step.next_position for step in without] == [step.next_position for step in with_all]
    for some, every in zip(without, with_all, strict=True):
        assert some.items == tuple(item for item in every.items if item.position not in gone)


def test_a_step_of_excluded_samples_alone_is_still_a_step() -> None:
    empty = Plan([Counting(PICTURE)], (1.0,), 2, excluded=lambda item: True).step(0)
    (share,) = Dealing(1)(empty, 0)
    assert (share.items, share.planned, share.next_position, share.shape) == ((), 1, 2, PICTURE)


def test_a_place_inside_a_step_of_buckets_is_no_place() -> None:
    with pytest.raises(ValueError, match="no step starts at position 1"):
        filled("buckets").step(1)


@pytest.mark.parametrize(("size", "budget"), [(None, None), (3, 4.0), (None, 0.0)])
def test_a_step_has_one_size(size: int | None, budget: float | None) -> None:
    with pytest.raises(ValueError, match=f"got .*{budget}"):
        Filling(size, budget, voxels)


def test_a_plan_that_others_came_before_counts_from_its_own_start() -> None:
    later = Plan([Counting(PICTURE)], (1.0,), 4, 10, end=120, first=100)
    assert [item.row for item in later.step(100).items] == [0, 1, 2, 3]
    assert [step.next_position for step in later.steps(100)] == [104, 108, 110, 114, 118, 120]
    assert later.num_steps(104, 120) == 5


def hands(step: Step, world_size: int, accumulate: int) -> list[list[Item]]:
    dealing = Dealing(world_size, accumulate)
    shares = [dealing(step, rank) for rank in range(world_size)]
    for own in shares:
        assert [share.closes_step for share in own] == [False] * (accumulate - 1) + [True]
        assert all((share.planned, share.next_position) == (len(step.items), step.next_position) for share in own)
    return [list(share.items) for own in shares for share in own]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 5, 24])
def test_every_item_is_dealt_once_and_hands_weigh_alike(world_size: int, accumulate: int, size: int) -> None:
    step = plan(batch_size=size, window=None).step(0)
    assert step is not None
    dealt = hands(step, world_size, accumulate)
    assert sorted((item for hand in dealt for item in hand), key=lambda item: item.position) == list(step.items)
    voxels = [sum(t * h * w for t, h, w in (item.shape for item in hand)) for hand in dealt]
    # Dealt to the lightest, two hands differ by no more than the largest sample.
    assert max(voxels) - min(voxels) <= max(t * h * w for t, h, w in (item.shape for item in step.items))
    for hand in dealt:
        assert [(item.shape, item.position) for item in hand] == sorted((i.shape, i.position) for i in hand)


def test_a_step_smaller_than_the_world_leaves_empty_hands() -> None:
    step = plan(batch_size=2, window=None).step(0)
    assert step is not None
    assert sorted(map(len, hands(step, 3, 2))) == [0, 0, 0, 0, 1, 1]


def test_dealing_to_the_lightest_evens_out_a_slope() -> None:
    """4 + 1 = 3 + 2: dealt in turns, the first hand would get 4 + 2."""
    items = tuple(Item(0, n, 0, n, ("s", n), (frames, 8, 8)) for n, frames in enumerate((2, 4, 1, 3)))
    dealt = hands(Step(items, 4), 2, 1)
    assert [[item.shape[0] for item in hand] for hand in dealt] == [[1, 4], [2, 3]]
