"""Validation's work, cut before it is shared out: the same forward passes whatever the number of ranks."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import final

from torch.utils.data import Sampler

from mmflow.data.deal import Share
from mmflow.data.plan import Item


def portions(items: Sequence[Item], limit: int) -> list[Share]:
    """Samples of one shape that are taken at once, costliest first.

    Args:
        items: all of them, in their global order.
        limit: pictures at a time; clips count as their frames. Never fewer than one sample.
    """
    cut: list[tuple[Item, ...]] = []
    for (frames, *_), same in groupby(sorted(items, key=lambda item: item.shape), key=lambda item: item.shape):
        members, size = list(same), max(1, limit // frames)
        cut += [tuple(members[i : i + size]) for i in range(0, len(members), size)]
    cut.sort(key=_cost, reverse=True)
    return [Share(each, len(each), each[-1].position + 1, True, each[0].shape) for each in cut]


def _cost(items: Sequence[Item]) -> int:
    frames, height, width = items[0].shape
    return len(items) * frames * height * width


@final
class PortionSampler(Sampler[Share]):
    """One rank's portions: whole ones, dealt to and fro so that every rank has about the same work.

    Results do not depend on the number of ranks, bit for bit, because a portion is the same batch wherever it is
    computed. Every rank has equally many; the last of some is empty, for networks that are sharded over the ranks.

    Args:
        cut: all portions, costliest first.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, cut: Sequence[Share], rank: int, world_size: int) -> None:
        turns = [list(cut[i : i + world_size]) for i in range(0, len(cut), world_size)]
        empty = [Share((), 0, 0, True, share.shape) for share in cut[:1]] * world_size
        places = [rank if turn % 2 == 0 else world_size - 1 - rank for turn in range(len(turns))]
        self.own = [(members + empty)[place] for members, place in zip(turns, places, strict=True)]

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[Share]:
        return iter(self.own)
