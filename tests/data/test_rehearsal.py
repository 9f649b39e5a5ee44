"""The pack with the most tokens is found wherever in the plan it is."""

import pytest

from mmflow.data.cost import Cost
from mmflow.data.deal import Dealing
from mmflow.data.plan import Filling, Item, Plan
from mmflow.data.rehearsal import costliest

COSTS = Cost(lambda t, h, w: t * h * w // 64, lambda characters: characters // 4, width=384)


class Mixed:
    """Pictures of three sizes, in an order that is no pattern; one in the far is the largest."""

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def locate(self, source: int, nth: int, position: int) -> Item:
        side = 256 if nth == self.largest else (8, 16, 32)[nth * nth % 7 % 3]
        return Item(source, nth, 0, position, ("s", "t", str(nth)), (1, side, side), nth % 90)


@pytest.mark.parametrize("filling", [Filling(8), Filling(8, bucketed=True)])
@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (2, 3)])
def test_no_pack_has_more(filling: Filling, world: int, accumulate: int) -> None:
    plan, dealing = Plan([Mixed(150)], (1.0,), filling, window=32), Dealing(world, accumulate, COSTS)
    share, tokens = costliest(plan, dealing, COSTS, first=0, samples=320)
    assert tokens == sum(COSTS.tokens(item) for item in share.items)
    bounded = Plan([Mixed(150)], (1.0,), filling, window=32, end=320)
    packs = [
        sum(map(COSTS.tokens, part.items))
        for step in bounded.steps(0)
        for rank in range(world)
        for part in dealing(step, rank)
    ]
    assert tokens == max(packs)
    assert any(item.row == 150 for item in share.items)


def test_a_plan_that_ends_and_one_that_is_not_looked_at_so_far() -> None:
    dealing = Dealing(1, 1, COSTS)
    short = Plan([Mixed(30)], (1.0,), 4, end=10)
    share, _ = costliest(short, dealing, COSTS, first=0)
    assert share.planned in (2, 4)
    near = costliest(Plan([Mixed(30)], (1.0,), 4), dealing, COSTS, first=0, samples=8)[0]
    far = costliest(Plan([Mixed(30)], (1.0,), 4), dealing, COSTS, first=0, samples=40)[0]
    assert all(item.row != 30 for item in near.items) and any(item.row == 30 for item in far.items)
