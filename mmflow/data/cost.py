"""What a sample costs: tokens for memory, and tokens beside their attention for time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from mmflow.data.plan import Item

Shape = tuple[int, int, int]


def voxels(item: Item) -> float:
    """Cost where nothing is known of the model: frames x height x width."""
    return float(math.prod(item.shape))


@dataclass(frozen=True)
class Cost:
    """Tokens and cost of planned samples, from the index alone.

    Attributes:
        visual: T x H x W pixels to visual tokens.
        context: characters of a caption to context tokens, about.
        width: of the model, D.
        attention: of the square of the tokens, as it was measured; None is 1 / (6 D).
    """

    visual: Callable[[int, int, int], int]
    context: Callable[[int], int]
    width: int
    attention: float | None = None

    def tokens(self, item: Item) -> int:
        """Visual and context tokens of a sample."""
        return self.of(item.shape, item.characters)[0]

    def __call__(self, item: Item) -> float:
        return self.of(item.shape, item.characters)[1]

    @cached_property
    def of(self) -> Callable[[Shape, int], tuple[int, float]]:
        """(tokens, cost) of a shape and a caption's length."""

        @lru_cache(maxsize=100_000)
        def both(shape: Shape, characters: int) -> tuple[int, float]:
            n = self.visual(*shape) + self.context(characters)
            return n, cost(n, self.width, self.attention)

        return both


def cost(n: int, width: int, attention: float | None = None) -> float:
    """n + n^2 / (6 D), in the time that one token's linear layers take: a layer of an MM-DiT spends 24 n D^2 on them
    and 4 n^2 D on attention. With a measured `attention`: n + attention n^2.
    """
    return n + n * n * (1 / (6 * width) if attention is None else attention)


def fit_attention(tokens: Sequence[int], seconds: Sequence[float]) -> float:
    """a of the times k (n + a n^2) that come closest, in relative terms, to those of samples of n tokens; 0 if none
    above it does.

    Raises:
        ValueError: if there are fewer than two numbers of tokens.
    """
    n, took = np.asarray(tokens, np.float64), np.asarray(seconds, np.float64)
    if len(np.unique(n)) < 2:
        raise ValueError(
            f"samples of {sorted(set(tokens))} tokens: attention needs at least two sizes to be told apart"
        )
    (linear, square), *_ = np.linalg.lstsq(np.stack([n, n * n], 1) / took[:, None], np.ones(len(n)), rcond=None)
    if linear <= 0:
        raise ValueError("the times grow faster than the square of the tokens: measure again on a quiet machine")
    return max(0.0, float(square / linear))


def micro_steps(kinds: Sequence[tuple[int, int]], samples: int, tokens: int, cap: int, world_size: int) -> int:
    """Micro-steps per optimizer step with which every step can be dealt under the cap, whatever its mix.

    Samples are dealt largest first, each where it fits. One of n tokens fits nowhere only if every hand holds more than
    `cap - n` tokens, all of samples of at least n. So hands suffice if, for the largest n of each kind, either the
    tokens or the samples of the kinds that reach n cannot fill them so far.

    Args:
        kinds: (tokens of the largest, the most samples in a step) of each kind of sample.
        samples: the most that a step has.
        tokens: the most that a step has.
        cap: tokens that a rank can take in a micro-step.
        world_size: ranks.

    Raises:
        ValueError: if the largest sample is above the cap.
    """
    hands, number, total = 1, 0, 0
    kinds = sorted(kinds, reverse=True)
    largest = kinds[0][0]
    if largest > cap:
        raise ValueError(f"one sample has {largest} tokens, above the cap of {cap}")
    for n, most in kinds:
        number, total = min(samples, number + most), min(tokens, total + most * n)
        by_tokens = -(-total // (cap - n + 1))
        by_samples = -(-number // ((cap - n) // largest + 1))
        hands = max(hands, min(by_tokens, by_samples))
    return -(-hands // world_size)
