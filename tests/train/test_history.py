"""`history.jsonl`, and what a start makes of it that has nothing to train."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmflow.train.history import append, came_to_its_end, read_history
from mmflow.train.module import FlowModule
from mmflow.train.optim import LrSchedule
from tests.train.runs import fit


def test_a_line_that_is_cut_short_is_left_out_and_goes_on_in_a_new_one(tmp_path: Path) -> None:
    append(tmp_path, "start", 0)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"time": 1.0, "eve')
    append(tmp_path, "continue", 2, nodes=3)
    found = read_history(tmp_path)
    assert [(line["event"], line["step"]) for line in found] == [("start", 0), ("continue", 2)]
    assert found[1]["nodes"] == 3 and read_history(tmp_path / "none") == []


def test_an_end_counts_for_the_last_start_and_not_after_a_stop(tmp_path: Path) -> None:
    assert not came_to_its_end(tmp_path)
    for event in ("start", "stop", "end", "continue"):
        append(tmp_path, event, 1)
        assert not came_to_its_end(tmp_path)
    append(tmp_path, "end", 2)
    assert came_to_its_end(tmp_path)


def test_a_run_that_is_complete_says_so(tmp_path: Path) -> None:
    """And tells a scheduler's script, and what is missing if its end was cut off."""
    run, verdict = tmp_path / "run", tmp_path / "verdict"
    given = ("--resume", "auto", "--trainer.max_steps", 2, "--wandb.mode", "off")
    assert "nothing to train" not in fit(run, *given)
    said = fit(run, *given, MMFLOW_VERDICT=str(verdict))
    assert f"nothing to train: {run} is at step 2, and trainer.max_steps is 2 (a larger one trains on)\n" in said
    assert verdict.read_text() == "done"
    start, end = (run / "history.jsonl").read_text().splitlines()
    for lines in ([start], [start, end.replace('"end"', '"stop"'), end]):
        (run / "history.jsonl").write_text("\n".join(lines) + "\n")
        assert f"Its end was cut off: python -m mmflow test --ckpt_path {run} makes" in fit(run, *given)


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
