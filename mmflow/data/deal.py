"""Who reads what: the samples of a step, dealt over ranks and micro-steps."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from mmflow.data.cost import Cost, voxels
from mmflow.data.plan import Item, Step


@dataclass(frozen=True)
class Share:
    """One rank's part of one micro-step."""

    items: tuple[Item, ...]
    planned: int
    next_position: int
    closes_step: bool
    shape: tuple[int, int, int]
    """Of some sample of the step: what a rank with nothing to read makes its group of none in."""


@dataclass(frozen=True)
class Dealing:
    """Over how many hands, and what weighs.

    Attributes:
        world_size: ranks.
        accumulate: micro-steps of each.
        cost: of a sample; None is its frames x height x width.
        cap: tokens that a hand can take, by the cost's count; None is any number.
    """

    world_size: int
    accumulate: int = 1
    cost: Cost | None = None
    cap: int | None = None

    def hands(self, step: Step) -> list[list[Item]]:
        """The micro-steps of all ranks, rank fastest. Costliest first, each sample goes to the hand that has least so
        far and room for it: no two hands differ by more than one sample's cost unless the cap forbids (Graham, 1969).

        Raises:
            ValueError: if a sample has room nowhere.
        """
        weigh: Callable[[Item], float] = voxels if self.cost is None else self.cost
        hands: list[list[Item]] = [[] for _ in range(self.world_size * self.accumulate)]
        tokens = [0] * len(hands)
        lightest = [(0.0, hand) for hand in range(len(hands))]
        for cost, item in sorted(((weigh(item), item) for item in step.items), key=lambda p: (-p[0], p[1].position)):
            need = 0 if self.cap is None or self.cost is None else self.cost.tokens(item)
            passed = []
            while self.cap is not None and lightest and tokens[lightest[0][1]] + need > self.cap:
                passed.append(heapq.heappop(lightest))
            if not lightest:
                raise ValueError(
                    f"a sample of {' x '.join(map(str, item.shape))} pixels ({need} tokens) has no room beside the "
                    f"others of its step: {len(hands)} hands of {self.cap} tokens"
                )
            load, hand = heapq.heappop(lightest)
            hands[hand].append(item)
            tokens[hand] += need
            for entry in (*passed, (load + cost, hand)):
                heapq.heappush(lightest, entry)
        return hands

    def __call__(self, step: Step, rank: int) -> list[Share]:
        """The micro-steps of one rank. Every rank gets the same number; some may be empty. Within a micro-step samples
        are sorted by shape, so that equal shapes form one dense group.
        """
        own = self.hands(step)[rank :: self.world_size]
        return [
            Share(
                items=tuple(sorted(hand, key=lambda item: (item.shape, item.position))),
                planned=max(1, len(step.items)),  # a step of excluded samples alone has a loss of 0
                next_position=step.next_position,
                closes_step=i == self.accumulate - 1,
                shape=step.shape,
            )
            for i, hand in enumerate(own)
        ]
