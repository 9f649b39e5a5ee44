"""The order of a sharded source: shards permuted without a table, samples shuffled inside windows of shards."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import final

import numpy as np
from jaxtyping import Int

from mmflow import draws
from mmflow.batch import Key
from mmflow.data.permutation import Permutation

WINDOW = 16
"""Tars per shuffle window."""

Taken = Mapping[int, Int[np.ndarray, " _"] | None]
"""By shard, which of its samples (their numbers within it, ascending) have been taken; None is all of them."""


@dataclass(frozen=True)
class Begun:
    """A pass that an earlier order of the same samples began, and that is to be ended without repeating any."""

    visit: int = 0
    taken: Taken = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """The samples of one shuffle window, in their order."""

    visit: int
    first: int
    """Which sample of the source, counted over all passes, is the window's first."""
    shards: Int[np.ndarray, " n"]
    numbers: Int[np.ndarray, " n"]
    """Of each sample within its shard."""


@final
class ShuffledShards:
    """Which sample of which shard is the nth, counted over all passes.

    Of a pass the ends of its windows are kept (8 bytes each), of one window its samples: nothing grows with the number
    of samples.

    Args:
        sizes: samples of each shard.
        seed: of the order.
        name: of the source, so that two sources of one seed differ.
        window: shards per shuffle window.
        begun: the pass to end first, and what is left out of it. The passes after it are whole.
    """

    def __init__(
        self,
        sizes: Sequence[int] | Int[np.ndarray, " S"],
        seed: int,
        name: str,
        window: int = WINDOW,
        begun: Begun | None = None,
    ) -> None:
        self.sizes, self.seed, self.name, self.window = np.asarray(sizes, np.int64), seed, name, window
        self.begun = begun or Begun()
        self.total = int(self.sizes.sum())
        self._rest = self.sizes.copy()
        for shard, numbers in self.begun.taken.items():
            self._rest[shard] = 0 if numbers is None else self.sizes[shard] - len(numbers)
        self.left = int(self._rest.sum())
        """Samples of the first pass."""
        self._ends = lru_cache(maxsize=2)(self._ends_of_pass)
        self._samples = lru_cache(maxsize=2)(self._samples_of_window)

    def _place(self, nth: int) -> tuple[int, int]:
        """(pass, place within it), passes counted from the begun one."""
        if nth < self.left:
            return 0, nth
        more, within = divmod(nth - self.left, self.total)
        return more + 1, within

    def _key(self, number: int) -> Key:
        """Whose the permutations of a pass are; the rest of a begun one is told from a whole one by its length."""
        return (self.name,) if number or not self.begun.taken else (self.name, self.left)

    def _shards(self, number: int, start: int, stop: int) -> Int[np.ndarray, " _"]:
        """The shards at these places of a pass; in the begun one only those that have samples left."""
        key = self._key(number)
        there = None if len(key) == 1 else np.flatnonzero(self._rest)
        n = len(self.sizes) if there is None else len(there)
        chosen = Permutation(n, self.seed, key, self.begun.visit + number)(np.arange(start, min(stop, n)))
        return chosen if there is None else there[chosen]

    def _ends_of_pass(self, number: int) -> Int[np.ndarray, " _"]:
        """Samples before the end of each window of a pass."""
        shards = self._shards(number, 0, len(self.sizes))
        sizes = (self.sizes if number else self._rest)[shards]
        return np.cumsum(np.add.reduceat(sizes, np.arange(0, len(sizes), self.window)))

    def _samples_of_window(self, number: int, window: int) -> Window:
        shards = self._shards(number, window * self.window, (window + 1) * self.window)
        numbers = [self._left_of(int(shard)) if number == 0 else np.arange(self.sizes[shard]) for shard in shards]
        visit = self.begun.visit + number
        rows = np.stack([np.repeat(shards, [len(each) for each in numbers]), np.concatenate(numbers)], 1)
        rows = draws.generator(self.seed, "samples", (*self._key(number), window), visit).permutation(rows)
        ends = self._ends(number)
        before = 0 if number == 0 else self.left + (number - 1) * self.total
        return Window(visit, before + int(ends[window - 1] if window else 0), rows[:, 0], rows[:, 1])

    def _left_of(self, shard: int) -> Int[np.ndarray, " _"]:
        """Numbers of the samples of a shard that the begun pass still has."""
        every = np.arange(self.sizes[shard])
        taken = self.begun.taken.get(shard, every[:0])
        return every[:0] if taken is None else np.setdiff1d(every, taken, assume_unique=True)

    def around(self, nth: int) -> Window:
        """The shuffle window that has the nth sample."""
        number, within = self._place(nth)
        return self._samples(number, bisect.bisect_right(self._ends(number), within))

    def __call__(self, nth: int) -> tuple[int, int, int]:
        """(shard, number in it, visit) of the nth sample over all passes."""
        window = self.around(nth)
        place = nth - window.first
        return int(window.shards[place]), int(window.numbers[place]), window.visit

    def after(self, nth: int) -> Begun:
        """The pass that the nth sample belongs to, and what of it comes before that sample."""
        number, within = self._place(nth)
        taken = {} if number else dict(self.begun.taken)
        if within == 0:
            return Begun(self.begun.visit + number, taken)
        window = bisect.bisect_right(self._ends(number), within)
        taken |= dict.fromkeys(self._shards(number, 0, window * self.window).tolist())
        if window < len(self._ends(number)):
            part = self._samples(number, window)
            before = slice(0, nth - part.first)
            for shard in np.unique(part.shards[before]).tolist():
                numbers = part.numbers[before][part.shards[before] == shard]
                earlier = taken.get(shard)
                taken[shard] = np.sort(numbers if earlier is None else np.concatenate([numbers, earlier]))
        return Begun(self.begun.visit + number, taken)
