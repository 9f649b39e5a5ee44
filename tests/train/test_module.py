"""The Lightning module: what it keeps beside the network."""

from functools import partial

from mmflow.flow.adaptive import Adaptive
from mmflow.flow.density import LogitNormal
from mmflow.flow.objective import FlowObjective
from mmflow.train.module import FlowModule
from tests.conftest import random_mmdit


def test_what_a_density_has_learned_is_part_of_checkpoints() -> None:
    build = partial(random_mmdit, depth=1)
    module = FlowModule(build, FlowObjective(density=Adaptive(LogitNormal(), bins=4)))
    assert module.state_dict()["density.sums"].shape == (4,)
    assert not any(name.startswith("density") for name in FlowModule(build).state_dict())
