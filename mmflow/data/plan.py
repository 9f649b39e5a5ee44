"""The global order of the data: a pure function of the seed, and the place in it one integer.

Position p of the plan belongs to one source, by an interleave that keeps the shares of pictures and clips exact to
within a sample over any stretch, and to one sample of it, by the source's own order. A step is a run of neighbouring
positions, or, in buckets, samples of one shape out of one window; it never straddles a window, so a window's leftovers
form short steps. World size, workers and prefetch do not enter: they only decide who reads what.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

from mmflow import draws
from mmflow.batch import Key
from mmflow.data.interleave import Interleave


@dataclass(frozen=True)
class Item:
    """One planned sample, known from the index alone."""

    source: int
    """Index of its source."""
    row: int
    """The source's own address of it."""
    visit: int
    """Passes over its source before this one."""
    position: int
    """Place in the plan."""
    key: Key
    shape: tuple[int, int, int]
    """(T, H, W) in pixels, as it will be delivered."""
    characters: int = 0
    """Of its caption."""


@dataclass(frozen=True)
class Step:
    """The samples of one optimizer step, over all ranks and micro-steps."""

    items: tuple[Item, ...]
    next_position: int
    shape: tuple[int, int, int] = (1, 1, 1)
    """Of some sample of the step, also where all of them are excluded."""


@runtime_checkable
class Locator(Protocol):
    """What a plan asks of a source."""

    def locate(self, source: int, nth: int, position: int) -> Item:
        """The nth sample, counted over all passes, that the plan takes from this source."""


@dataclass(frozen=True)
class Filling:
    """What fills a step.

    Attributes:
        batch_size: samples, or None where a budget fills it.
        budget: cost; a step takes samples until the next would exceed it, and always one.
        cost: of a sample.
        bucketed: all samples of a step have one shape; the steps of a window are shuffled.
        seed: of that shuffle.
    """

    batch_size: int | None = None
    budget: float | None = None
    cost: Callable[[Item], float] | None = None
    bucketed: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.batch_size is None) == (self.budget is None):
            raise ValueError(f"a step has a batch_size or a budget, got {self.batch_size} and {self.budget}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.budget is not None and (self.budget <= 0 or self.cost is None):
            raise ValueError(f"a budget must be positive and needs costs, got {self.budget}")

    def cut(self, items: Iterator[Item]) -> Iterator[list[Item]]:
        """Consecutive items in steps, each as full as it may be."""
        taken: list[Item] = []
        spent = 0.0
        for item in items:
            price = 0.0 if self.budget is None or self.cost is None else self.cost(item)
            full = len(taken) == self.batch_size if self.budget is None else spent + price > self.budget
            if taken and full:
                yield taken
                taken, spent = [], 0.0
            taken.append(item)
            spent += price
        if taken:
            yield taken


STEPS_PER_WINDOW, POSITIONS_PER_WINDOW = 64, 4096
"""A window's length if none is stated: of steps of so many samples, or where a budget fills them."""


class Plan:
    """Steps of a weighted mix of sources.

    Args:
        sources: objects with `locate(source, nth, position) -> Item`.
        weights: share of samples of each.
        filling: what fills a step; a number is samples per optimizer step over all ranks.
        window: positions per window; a step never straddles two. A multiple of `batch_size` leaves no short steps.
        end: where the plan ends, or None for an endless one.
        first: position of its first sample; greater than 0 where other plans came before.
        excluded: samples to leave out; the others stay in the steps where they were.

    Raises:
        ValueError: for a batch_size or window below 1, or unusable weights.
    """

    def __init__(
        self,
        sources: Sequence[Locator],
        weights: Sequence[float],
        filling: Filling | int,
        window: int | None = None,
        end: int | None = None,
        first: int = 0,
        excluded: Callable[[Item], bool] | None = None,
    ) -> None:
        self.filling = Filling(filling) if isinstance(filling, int) else filling
        size = self.filling.batch_size
        window = (POSITIONS_PER_WINDOW if size is None else STEPS_PER_WINDOW * size) if window is None else window
        if window < 1:
            raise ValueError(f"a window must have at least 1 position, got {window}")
        self._sources, self.interleave = sources, Interleave(weights)
        self.window, self.end, self.first, self._excluded = window, end, first, excluded
        self._in_buckets = lru_cache(maxsize=2)(self._steps_in_buckets)

    def item(self, position: int) -> Item:
        """The sample at a place of the plan."""
        source, nth = self.interleave(position - self.first)
        return self._sources[source].locate(source, nth, position)

    def step(self, position: int) -> Step | None:
        """The step that starts at `position`; None at the end of the plan.

        Raises:
            ValueError: if, in buckets, no step starts there.
        """
        start, stop = self._window_of(position)
        if stop <= position:
            return None
        if self.filling.bucketed:
            steps = self._in_buckets(start, stop)
            if position not in steps:
                raise ValueError(f"no step starts at position {position}")
            return self._planned(*steps[position])
        items = next(self.filling.cut(self.item(p) for p in range(position, stop)))
        return self._planned(items, position + len(items))

    def _window_of(self, position: int) -> tuple[int, int]:
        """First position of a window, and the first after it."""
        start = position - (position - self.first) % self.window
        stop = start + self.window
        return start, stop if self.end is None else min(stop, self.end)

    def _steps_in_buckets(self, start: int, stop: int) -> dict[int, tuple[list[Item], int]]:
        """By its place, each step of a window, and the place of the next. Samples keep their positions; places count
        the samples of the steps before.
        """
        groups: dict[tuple[int, int, int], list[Item]] = {}
        for position in range(start, stop):
            item = self.item(position)
            groups.setdefault(item.shape, []).append(item)
        steps = [items for shape in sorted(groups) for items in self.filling.cut(iter(groups[shape]))]
        order = draws.generator(self.filling.seed, "buckets", (start,), 0).permutation(len(steps)).tolist()
        placed, place = {}, start
        for i in order:
            placed[place] = steps[i], place + len(steps[i])
            place += len(steps[i])
        return placed

    def _planned(self, items: list[Item], next_position: int) -> Step:
        kept = items if self._excluded is None else [item for item in items if not self._excluded(item)]
        return Step(tuple(kept), next_position, items[0].shape)

    def steps(self, position: int) -> Iterator[Step]:
        """All steps from `position` on."""
        while (step := self.step(position)) is not None:
            yield step
            position = step.next_position

    def num_steps(self, start: int, stop: int) -> int:
        """Optimizer steps from one place to another. Where shapes decide, the index of all between them is read."""
        if self.filling.bucketed or self.filling.batch_size is None:
            count = 0
            while start < stop and (step := self.step(start)) is not None:
                start, count = step.next_position, count + 1
            return count

        def before(position: int) -> int:
            full, rest = divmod(position - self.first, self.window)
            size = self.filling.batch_size
            assert size is not None
            return full * -(-self.window // size) + -(-rest // size)

        return max(0, before(stop) - before(start))
