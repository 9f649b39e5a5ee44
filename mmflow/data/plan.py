"""The global order of the data: a pure function of the seed, and the place in it one integer.

Position p of the plan belongs to one source, by an interleave that keeps the shares of pictures and clips exact to
within a sample over any stretch, and to one sample of it, by the source's own order. Steps are `batch_size`
neighbouring positions; they never straddle a window, so a window's leftovers form a short step. World size, workers and
prefetch do not enter: they only decide who reads what.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, runtime_checkable

from mmflow.batch import Key


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


@runtime_checkable
class Locator(Protocol):
    """What a plan asks of a source."""

    def locate(self, source: int, nth: int, position: int) -> Item:
        """The nth sample, counted over all passes, that the plan takes from this source."""


class Interleave:
    """Which source position p goes to: each source in turn takes its share of what is left; closed form, so any p costs
    the same.

    Of k sources none is ever k - 1 samples from its share over any stretch, so two are exact to within a sample.
    Three or more with any shares cannot be.

    Args:
        weights: share of each source, non-negative, not all zero.

    Raises:
        ValueError: for negative weights or a sum of zero.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"weights must be non-negative with a positive sum, got {list(weights)}")
        total = sum(weights)
        exact = [Fraction(weight / total).limit_denominator(1_000_000) for weight in weights]
        self._shares = [weight / rest if (rest := sum(exact[i:])) else Fraction(0) for i, weight in enumerate(exact)]

    def __call__(self, position: int) -> tuple[int, int]:
        """(source, how many earlier positions went to the same source)."""
        for source, share in enumerate(self._shares):
            before, after = _quota(position, share), _quota(position + 1, share)
            if after > before:
                return source, before
            position -= before
        raise AssertionError("the shares of all sources fill every position")


def _quota(position: int, share: Fraction) -> int:
    """How many of the first `position` places a share of them gets: rounded, so that it errs by at most a half."""
    return (2 * position * share.numerator + share.denominator) // (2 * share.denominator)


class Plan:
    """Steps of a weighted mix of sources.

    Args:
        sources: objects with `locate(source, nth, position) -> Item`.
        weights: share of samples of each.
        batch_size: samples per optimizer step over all ranks.
        window: positions per window; a step never straddles two. A multiple of `batch_size` leaves no short steps.
        end: positions in all, or None for an endless plan.

    Raises:
        ValueError: for a batch_size or window below 1, or unusable weights.
    """

    def __init__(
        self,
        sources: Sequence[Locator],
        weights: Sequence[float],
        batch_size: int,
        window: int | None = None,
        end: int | None = None,
    ) -> None:
        window = 64 * batch_size if window is None else window
        if batch_size < 1 or window < 1:
            raise ValueError(f"batch_size and window must be at least 1, got {batch_size} and {window}")
        self._sources, self._interleave = sources, Interleave(weights)
        self.batch_size, self.window, self.end = batch_size, window, end

    def item(self, position: int) -> Item:
        """The sample at a place of the plan."""
        source, nth = self._interleave(position)
        return self._sources[source].locate(source, nth, position)

    def step(self, position: int) -> Step | None:
        """The step that starts at `position`; None at the end of the plan."""
        edge = (position // self.window + 1) * self.window
        stop = min(position + self.batch_size, edge)
        if self.end is not None:
            stop = min(stop, self.end)
        if stop <= position:
            return None
        return Step(tuple(self.item(p) for p in range(position, stop)), stop)

    def steps(self, position: int) -> Iterator[Step]:
        """All steps from `position` on."""
        while (step := self.step(position)) is not None:
            yield step
            position = step.next_position

    def num_steps(self, positions: int) -> int:
        """Optimizer steps that the first `positions` places make."""
        full, rest = divmod(positions, self.window)
        per_window = -(-self.window // self.batch_size)
        return full * per_window + -(-rest // self.batch_size)


@dataclass(frozen=True)
class Share:
    """One rank's part of one micro-step."""

    items: tuple[Item, ...]
    planned: int
    next_position: int
    closes_step: bool
    shape: tuple[int, int, int]
    """Of some sample of the step: what a rank with nothing to read makes its group of none in."""


def deal(step: Step, rank: int, world_size: int, accumulate: int) -> list[Share]:
    """The micro-steps of one rank: the step's samples, largest first, dealt to and fro so that every hand weighs alike.

    Every rank gets the same number of micro-steps; some may be empty. Within a micro-step samples are sorted by
    shape, so
    that equal shapes form one dense group.
    """
    hands: list[list[Item]] = [[] for _ in range(world_size * accumulate)]
    largest_first = sorted(step.items, key=lambda item: (-item.shape[0] * item.shape[1] * item.shape[2], item.position))
    for i, item in enumerate(largest_first):
        turn, place = divmod(i, len(hands))
        hands[place if turn % 2 == 0 else -1 - place].append(item)
    own = hands[rank::world_size]
    return [
        Share(
            items=tuple(sorted(hand, key=lambda item: (item.shape, item.position))),
            planned=len(step.items),
            next_position=step.next_position,
            closes_step=i == accumulate - 1,
            shape=step.items[0].shape,
        )
        for i, hand in enumerate(own)
    ]
