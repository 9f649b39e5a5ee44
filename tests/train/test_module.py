"""The Lightning module: what it keeps beside the network."""

from datetime import timedelta
from functools import partial

import pytest
from lightning import Trainer
from lightning.pytorch.callbacks import Timer

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


@pytest.mark.parametrize(
    ("steps", "seconds", "share"),
    [(0, 0, 0.0), (10, 15, 0.25), (50, 15, 0.5), (10, 60, 1.0), (10, 90, 1.0)],
)
def test_a_run_is_as_far_as_its_steps_or_its_time(
    steps: int, seconds: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 steps and of 60 seconds."""
    module = FlowModule(partial(random_mmdit, depth=1))
    module.trainer = Trainer(
        **{"max_steps": 100, "max_time": timedelta(seconds=60), "accelerator": "cpu", "logger": False},
        **{"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
    )
    monkeypatch.setattr(FlowModule, "global_step", steps)
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, stage=None: seconds)
    assert module.progress() == pytest.approx(share)


def test_an_endless_run_has_no_progress() -> None:
    module = FlowModule(partial(random_mmdit, depth=1))
    module.trainer = Trainer(max_steps=-1, accelerator="cpu", logger=False, enable_checkpointing=False)
    assert module.progress() == 0
