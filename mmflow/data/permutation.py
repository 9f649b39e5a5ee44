"""Permutations that need no table: place n of a shuffled range costs the same however long the range is."""

from typing import final

import numpy as np
from jaxtyping import Int

from mmflow import draws
from mmflow.batch import Key

ROUNDS = 6
"""Of the Feistel network; four make a pseudorandom permutation of wide words, the rest is for narrow ones."""


@final
class Permutation:
    """A bijection of 0 .. n - 1: a Feistel network over the next power of four, walked on until it lands below n.

    Luby and Rackoff (1988) for the network, Black and Rogaway (2002) for the walk. Fewer than four steps are expected,
    since at least a quarter of the power of four lies below n.

    Args:
        n: length of the range, at least 1.
        seed: of the run.
        key: whose permutation it is.
        visit: which one of them.
    """

    def __init__(self, n: int, seed: int, key: Key, visit: int) -> None:
        if n < 1:
            raise ValueError(f"a permutation needs something to permute, got n {n}")
        self.n = n
        self._half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = draws.generator(seed, "permutation", key, visit).integers(0, 2**64, ROUNDS, dtype=np.uint64)

    def __call__(self, places: Int[np.ndarray, " _"]) -> Int[np.ndarray, " _"]:
        """What stands at these places of the shuffled range."""
        value = self._network(places.astype(np.uint64))
        while (outside := value >= self.n).any():
            value[outside] = self._network(value[outside])
        return value.astype(np.int64)

    def _network(self, value: np.ndarray) -> np.ndarray:
        left, right = value >> self._half, value & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        joined: np.ndarray = (left << self._half) | right
        return joined


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014): every bit depends on every bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = value ^ (value >> np.uint64(31))
    return mixed
