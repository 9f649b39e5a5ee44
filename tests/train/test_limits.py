"""How far a run is, and what it ends at."""

from datetime import timedelta

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from mmflow.train.limits import limit_reached, share_done


def at(
    step: int, seconds: float, patch: pytest.MonkeyPatch, max_steps: int = 100, minutes: float | None = 1
) -> Trainer:
    """A trainer that has come so far."""
    patch.setattr(Trainer, "global_step", step)
    patch.setattr(Timer, "time_elapsed", lambda self, stage=None: seconds)
    time = None if minutes is None else timedelta(minutes=minutes)
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", max_steps=max_steps, max_time=time, **silent)


@pytest.mark.parametrize(
    ("steps", "seconds", "share", "limit"),
    [
        (0, 0, 0.0, None),
        (10, 15, 0.25, None),
        (50, 15, 0.5, None),
        (100, 15, 1.0, "trainer.max_steps is 100"),
        (10, 60, 1.0, "trainer.max_time is used up"),
        (10, 90, 1.0, "trainer.max_time is used up"),
    ],
)
def test_steps_or_time_whichever_is_further(
    steps: int, seconds: float, share: float, limit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = at(steps, seconds, monkeypatch)
    assert share_done(trainer) == pytest.approx(share) and limit_reached(trainer) == limit


def test_one_limit_alone_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share_done(at(30, 50, monkeypatch, minutes=None)) == pytest.approx(0.3)
    assert share_done(at(30, 15, monkeypatch, max_steps=-1)) == pytest.approx(0.25)
    endless = at(30, 15, monkeypatch, max_steps=-1, minutes=None)
    assert share_done(endless) == 0 and limit_reached(endless) is None
