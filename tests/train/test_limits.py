"""How far a run is, and what it ends at."""

import csv
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from mmflow.train.history import came_to_its_end, read_history
from mmflow.train.limits import limit_reached, share_done
from mmflow.train.module import FlowModule
from mmflow.train.optim import LrSchedule
from tests.train.runs import fit


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


def test_a_run_ends_with_its_time_and_the_schedule_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a number of steps, on a clock by which each of them takes a second."""
    run, begin, clock = tmp_path / "run", FlowModule.on_train_batch_start, SimpleNamespace(now=0.0)

    def tick(self: FlowModule, *args: Any) -> None:
        begin(self, *args)
        clock.now += 1

    monkeypatch.setattr(FlowModule, "on_train_batch_start", tick)
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", SimpleNamespace(monotonic=lambda: clock.now))
    given = ("--resume", "auto", "--trainer.max_steps", -1, "--trainer.max_time", "00:00:00:08", "--wandb.mode", "off")
    given = (*given, "--model.lr_schedule.decay", "linear", "--model.optimizer.lr", 1e-3)
    assert "nothing to train" not in fit(run, *given)
    with (run / "metrics.csv").open(newline="") as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file) if row.get("lr")]
    schedule = LrSchedule(warmup_steps=2, decay="linear")
    assert rates == pytest.approx([1e-3 * schedule.factor(step, step / 8) for step in range(8)], rel=1e-5)
    assert rates[-1] < max(rates) / 2 and came_to_its_end(run)
    assert f"nothing to train: {run} is at step 8, and trainer.max_time is used up (a larger" in fit(run, *given)
    assert "nothing to train" not in fit(run, *given, "--trainer.max_time", "00:00:00:12")
    assert [(line["event"], line["step"]) for line in read_history(run)[-2:]] == [("continue", 8), ("end", 12)]
