"""Validation's work is cut before it is shared out."""

from collections import Counter

import pytest

from mmflow.data.plan import Item
from mmflow.data.portions import PortionSampler, portions

SHAPES = [(1, 8, 8), (4, 8, 8), (1, 16, 8)]
ITEMS = [Item(0, n, 0, n, ("s", "t", str(n)), SHAPES[n % 3]) for n in range(50)]


def test_portions_are_of_one_shape_and_bounded_by_frames() -> None:
    cut = portions(ITEMS, 8)
    assert Counter(item.key for share in cut for item in share.items) == Counter(item.key for item in ITEMS)
    for share in cut:
        assert {item.shape for item in share.items} == {share.shape}
        assert len(share.items) * share.shape[0] <= 8
    assert max(len(share.items) for share in portions(ITEMS, 0)) == 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 40])
def test_ranks_share_whole_portions_without_repetition(world_size: int) -> None:
    cut = portions(ITEMS, 8)
    samplers = [PortionSampler(cut, rank, world_size) for rank in range(world_size)]
    assert len({len(sampler) for sampler in samplers}) == 1
    dealt = [share for sampler in samplers for share in sampler if share.items]
    assert Counter(share.items for share in dealt) == Counter(share.items for share in cut)
    assert all(share.shape for sampler in samplers for share in sampler)
    loads = [sum(len(s.items) * s.shape[0] * s.shape[1] * s.shape[2] for s in sampler) for sampler in samplers]
    assert max(loads) - min(loads) <= 8 * 128, "no rank waits for longer than the largest portion"


def test_nothing_to_do_is_nothing_to_share() -> None:
    assert portions([], 8) == [] and list(PortionSampler([], 1, 3)) == []
