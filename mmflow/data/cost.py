"""What a sample costs: tokens for memory, and tokens beside their attention for time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

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
    """

    visual: Callable[[int, int, int], int]
    context: Callable[[int], int]
    width: int

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
            return n, cost(n, self.width)

        return both


def cost(n: int, width: int) -> float:
    """n + n^2 / (6 D), in the time that one token's linear layers take: a layer of an MM-DiT spends 24 n D^2 on them
    and 4 n^2 D on attention.
    """
    return n + n * n / (6 * width)


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
