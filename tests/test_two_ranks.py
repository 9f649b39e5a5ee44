"""Two processes (gloo) under DDP: the design whose attention over time only clips go through."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmflow.batch import Conditioning
from mmflow.flow.objective import FlowObjective
from mmflow.model.design import Design
from mmflow.model.mmdit import MMDiT
from tests.conftest import features, random_mmdit

Bag = tuple[int, int]
"""(pictures, clips)."""
STEPS: list[tuple[Bag, Bag]] = [
    ((2, 0), (0, 1)),
    ((1, 1), (2, 0)),
    ((2, 0), (1, 0)),
    ((0, 0), (1, 1)),
    ((0, 2), (0, 1)),
]
"""What each of the two ranks has, step by step: one of them without a clip, then both, then one without anything."""


def model() -> MMDiT:
    return random_mmdit(design=Design(temporal="added"))


def loss_of(network: nn.Module, bags: list[tuple[int, Bag]]) -> Tensor:
    """Sum of the losses of bags, each of which a seed names; the pictures of all before the clips of all."""
    drawn = []
    for seed, (pictures, clips) in bags:
        g = torch.Generator().manual_seed(seed)
        for number, frames in ((pictures, 1), (clips, 4)):
            shape = (number, 3, frames, 8, 8)
            x0, eps, u = (
                torch.randn(shape, generator=g),
                torch.randn(shape, generator=g),
                torch.rand(number, generator=g),
            )
            text = features([2 + frames] * number, seed=seed + frames)
            drawn.append((frames, x0, eps, u, text))
    drawn.sort(key=lambda group: group[0])
    drawn = [group for group in drawn if len(group[1])] or drawn[:1]
    text = type(drawn[0][4]).cat([group[4] for group in drawn])
    u = torch.cat([group[3] for group in drawn])
    x0, eps = tuple(group[1] for group in drawn), tuple(group[2] for group in drawn)
    loss, _ = FlowObjective()(network, x0, Conditioning(text), u, eps)
    return loss.sum()


def planned(step: tuple[Bag, Bag]) -> int:
    return sum(map(sum, step))


def train(network: nn.Module, backbone: MMDiT, rank: int | None = None) -> list[dict]:
    """Gradients of every step, scaled as the Lightning module does: on both bags, or on those of one rank."""
    optimizer, found = torch.optim.SGD(backbone.parameters(), lr=0.01), []
    for number, step in enumerate(STEPS):
        bags = [(10 * number + each, step[each]) for each in ((0, 1) if rank is None else (rank,))]
        optimizer.zero_grad()
        ((1 if rank is None else 2) * loss_of(network, bags) / planned(step)).backward()
        found.append({name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None})
        optimizer.step()
    return found


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    backbone = model()
    torch.save(train(DistributedDataParallel(backbone), backbone, rank=rank), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_attention_over_time_trains_alike_on_one_rank_and_on_two(tmp_path: Path) -> None:
    """Every gradient, whichever rank has the clips and whether any has one: nobody waits for a parameter in vain."""
    torch.multiprocessing.spawn(one_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    backbone = model()
    for number, expected in enumerate(train(backbone, backbone)):
        assert ranks[0][number].keys() == ranks[1][number].keys() == dict(backbone.named_parameters()).keys()
        for name, gradient in expected.items():
            for rank in (0, 1):
                torch.testing.assert_close(ranks[rank][number][name], gradient, atol=1e-5, rtol=1e-4)
        over_time = [name for name in expected if ".over_time." in name]
        has_clips = any(clips for _, clips in STEPS[number])
        assert all(bool(expected[name].any()) == has_clips for name in over_time if not name.endswith("qkv.bias"))
