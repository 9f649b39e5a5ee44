"""What an objective costs beside the network: at most 3 % of a training step at depth 4."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmflow.batch import Conditioning
from mmflow.flow import formulations
from mmflow.flow.adaptive import Adaptive
from mmflow.flow.density import LogitNormal
from mmflow.flow.objective import FlowObjective
from tests.conftest import features, random_mmdit

BATCH = 8
OBJECTIVES = {name: formulations.parse(name) for name in ("rf/lognorm(0.00,1.00)", "eps/linear", "edm(-1.20,1.20)")}
OBJECTIVES["adaptive"] = FlowObjective(density=Adaptive(LogitNormal()))


def seconds(work: Callable[[], object]) -> float:
    """Of the processor, the least of three."""
    found = []
    for _ in range(3):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_costs_little_beside_its_network(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    network = random_mmdit(depth=4, patch_size=4, video_patch_size=(4, 4, 4))
    x0, eps = ((torch.randn(BATCH, 3, 1, 32, 32, generator=g),) for _ in range(2))
    u, conditioning = torch.rand(BATCH, generator=g), Conditioning(features([8] * BATCH))

    def step(backbone: Callable[..., tuple[Tensor, ...]]) -> None:
        OBJECTIVES[name](backbone, x0, conditioning, u, eps)[0].mean().backward()

    scale = torch.ones((), requires_grad=True)
    whole, objective = seconds(lambda: step(network)), seconds(lambda: step(lambda z, t, c: (z[0] * scale,)))
    print(f"{name}: {objective / whole:.1%} of a step of {whole:.3f} s")
    assert objective < 0.03 * whole
