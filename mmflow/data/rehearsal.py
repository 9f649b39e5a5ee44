"""Which pack of a plan asks most of a device's memory."""

from mmflow.data.cost import Cost
from mmflow.data.deal import Dealing, Share
from mmflow.data.plan import Plan, Step

LOOKED = 65_536
"""Samples of a plan that are looked at: it may have no end."""


def costliest(plan: Plan, dealing: Dealing, costs: Cost, first: int, samples: int = LOOKED) -> tuple[Share, int]:
    """The share of any rank in any micro-step that has the most tokens, and how many; the same on every rank.

    Args:
        plan: the order.
        dealing: of its steps.
        costs: of samples.
        first: where a step begins.
        samples: positions that are looked at from there on.
    """
    most, found, hand = -1, Step((), first), 0
    for step in plan.steps(first):
        if step.next_position > first + samples and most >= 0:
            break
        for i, items in enumerate(dealing.hands(step)):
            tokens = sum(map(costs.tokens, items))
            if tokens > most:
                most, found, hand = tokens, step, i
    return dealing(found, hand % dealing.world_size)[hand // dealing.world_size], max(most, 0)
