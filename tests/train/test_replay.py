"""The samples that spoil a pack are found by halving it."""

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmflow.batch import Batch, Conditioning, Known
from mmflow.flow.adaptive import Adaptive
from mmflow.flow.density import LogitNormal
from mmflow.flow.objective import FlowObjective
from mmflow.train.replay import MicroStep, bisect, culprits, each_alone, part, take
from tests.conftest import features, random_mmdit


def pack(num: int = 64) -> Batch:
    """Pictures, then clips, a quarter of them."""
    g = torch.Generator().manual_seed(0)
    sizes = {(3, 1, 4, 4): num - num // 4, (3, 2, 4, 4): num // 4}
    latents, eps = (
        tuple(torch.randn((n, *shape), generator=g) for shape, n in sizes.items() if n) for _ in ("latents", "eps")
    )
    return Batch(
        pixels=(),
        captions=("",) * num,
        u=torch.rand(num, generator=g),
        eps=eps,
        keys=tuple(("world", "train", str(i)) for i in range(num)),
        visits=(0,) * num,
        planned=num,
        next_position=num,
        closes_step=True,
        latents=latents,
        conditioning=Conditioning(features([2] * num)),
    )


def module(objective: FlowObjective = FlowObjective()) -> Any:
    """What of a FlowModule a replay uses."""
    network = random_mmdit(depth=1)
    density = {"density": objective.density} if isinstance(objective.density, Adaptive) else {}
    return SimpleNamespace(
        backbone=network, objective=objective, autocast=nullcontext, zero_grad=network.zero_grad, **density
    )


def whole_norm(flow: Any, batch: Batch) -> float:
    return take(flow, MicroStep(batch, {}), range(len(batch))).gradient_norm


def test_one_poisoned_sample_of_64() -> None:
    batch, flow = pack(), module()
    assert batch.latents is not None
    batch.latents[1][5, 0, 1, 2, 3] = torch.nan
    norm = whole_norm(flow, batch)
    assert norm != norm
    (found,), looks = culprits(flow, [MicroStep(batch, {})], norm)
    (one,) = found.samples
    assert one.key == ("world", "train", str(48 + 5)) and one.loss != one.loss and not found.is_number()
    assert looks == 1 + 2 * 6


def test_a_sample_whose_gradients_are_far_too_large() -> None:
    batch, flow = pack(), module()
    assert batch.latents is not None
    batch.latents[0][17] *= 1e4
    (found,), looks = culprits(flow, [MicroStep(batch, {})], whole_norm(flow, batch))
    assert [one.key[2] for one in found.samples] == ["17"] and found.is_number() and looks == 13


def test_each_alone_the_worst_first() -> None:
    batch, flow = pack(8), module()
    assert batch.latents is not None
    batch.latents[0][4] *= 1e4
    batch.latents[1][1] = torch.inf
    alone = each_alone(flow, [MicroStep(batch, {})])
    assert len(alone) == 8 and [each.samples[0].key[2] for each in alone[:2]] == ["7", "4"]
    assert [each.is_number() for each in alone] == [False] + [True] * 7


def test_part_of_a_pack_is_as_it_was_in_it() -> None:
    """Losses and times of a few are theirs in the whole, also where a density has learned in between."""
    batch, flow = pack(8), module(FlowObjective(density=Adaptive(LogitNormal())))
    assert batch.latents is not None
    known = tuple(Known(torch.zeros_like(z), torch.ones_like(z[:, :1])) for z in batch.latents)
    assert batch.conditioning is not None
    batch = dataclasses.replace(batch, conditioning=Conditioning(batch.conditioning.text, known))
    flow.objective.density.observe(torch.rand(200), torch.rand(200) * 10)
    step = MicroStep(batch, {name: value.clone() for name, value in flow.density.state_dict().items()})
    flow.backbone = _deaf(flow.backbone)
    all_of_them = take(flow, step, range(8))
    some = take(flow, step, [1, 5, 6, 7])
    for mine, other in zip(some.samples, [all_of_them.samples[i] for i in (1, 5, 6, 7)], strict=True):
        assert (mine.key, mine.t) == (other.key, other.t) and mine.loss == pytest.approx(other.loss, rel=1e-5)
    few = part(batch, [6, 7])
    assert few.latents is not None and [len(z) for z in few.latents] == [2] and few.conditioning is not None
    assert few.conditioning.known is not None and len(few.conditioning.known) == 1 and len(few.conditioning.text) == 2


def _deaf(network: torch.nn.Module) -> torch.nn.Module:
    """A network that is told nothing of what is known."""

    class Deaf(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, z: Any, t: Any, conditioning: Conditioning) -> Any:
            return self.inner(z, t, Conditioning(conditioning.text))

    return Deaf()


def test_halving() -> None:
    looked: list[int] = []

    def number(samples: Sequence[int]) -> float:
        looked.append(len(samples))
        return sum(10.0**i for i in samples if i in (3, 40))

    found = [list(samples) for samples, _ in bisect(range(64), number, lambda total: total > 0)]
    assert found == [[3], [40]] and len(looked) == 1 + 2 * (1 + 2 * 5)
    assert not list(bisect(range(64), number, lambda total: False))
    # Two that are bad only in each other's company: the smallest pack that holds both.
    both = [list(s) for s, _ in bisect(range(8), lambda s: {1, 2} <= set(s), bool)]
    assert both == [[0, 1, 2, 3]]
