"""Compiles a network's blocks and calls them with twenty shapes, then as validation and previews do; prints how many
programs and graph breaks it took.

Run as a program of its own, without jaxtyping's checks at run time, which a full graph cannot hold.
"""

import json
import random
import sys
from itertools import product
from typing import Any

import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from mmflow.batch import Conditioning, TextFeatures
from mmflow.model.design import Design
from mmflow.model.mmdit import MMDiT
from mmflow.train.parallel import Parallel, lay_out

NUM_SHAPES = 20


def network(temporal: str) -> MMDiT:
    """Of two blocks, which are of different kinds, with random weights."""
    design = Design(temporal=temporal)  # type: ignore[arg-type]
    model = MMDiT(2, 3, 16, 8, patch_size=2, video_patch_size=(2, 2, 2), base_size=8, design=design)
    g = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g) * 0.08
    return model


def bags() -> list[tuple[tuple[torch.Tensor, ...], torch.Tensor, Conditioning]]:
    """Pictures and clips of all sizes, of one shape and of several, with captions of all lengths."""
    draw, g = random.Random(0), torch.Generator().manual_seed(0)
    made = []
    for i in range(NUM_SHAPES):
        z = []
        for _ in range(1 if i % 4 == 3 else draw.randint(1, 3)):
            shape = (draw.randint(2, 3), 3, draw.choice([1, 1, 2, 4]), 2 * draw.randint(2, 8), 2 * draw.randint(2, 8))
            z.append(torch.randn(shape, generator=g))
        n = sum(len(x) for x in z)
        lengths = [draw.randint(2, 9)] * n if i % 4 == 3 else [draw.randint(1, 9) for _ in range(n)]
        text = TextFeatures(
            torch.randn(sum(lengths), 16, generator=g),
            torch.tensor(lengths).reshape(-1, 1),
            torch.randn(n, 8, generator=g),
        )
        made.append((tuple(z), torch.rand(n, generator=g), Conditioning(text)))
    return made


def gradients(model: MMDiT, bag: Any) -> list[torch.Tensor]:
    """Of a loss over the bag."""
    model.zero_grad()
    torch.stack([out.square().mean() for out in model(*bag)]).sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def calls(model: MMDiT) -> None:
    """Every bag in the four states in which a `fit` calls the network, with an autocast and without."""
    for bag, with_gradients, is_cast in product(bags(), (True, False), (True, False)):
        with torch.set_grad_enabled(with_gradients), torch.autocast("cpu", torch.bfloat16, enabled=is_cast):
            model(*bag)


def main(recompute: str, temporal: str) -> None:
    """Compiles, compares every gradient with the eager network's, calls it in all states, and prints the counts."""
    counter = CompileCounterWithBackend("aot_eager")
    real = nn.Module.compile
    nn.Module.compile = lambda self, **given: real(self, backend=counter, **given)  # type: ignore[method-assign]
    eager, compiled = network(temporal), network(temporal)
    lay_out(compiled, Parallel(compile=True, recompute=recompute), None, None)  # type: ignore[arg-type]
    worst = 0.0
    for bag in bags():
        pairs = zip(gradients(compiled, bag), gradients(eager, bag), strict=True)
        worst = max(worst, *(float((a - b).norm() / b.norm().clamp(min=1e-6)) for a, b in pairs))
    found = {"programs": counter.frame_count, "worst": worst}
    calls(compiled)
    print(json.dumps({**found, "of_all": counter.frame_count, "breaks": sum(counters["graph_break"].values())}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
