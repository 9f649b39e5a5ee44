"""A run that is killed, or cannot write, is continued from its last whole checkpoint."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch.callbacks import Callback

from mmflow.__main__ import main
from mmflow.cli import MmflowCLI
from mmflow.train.saved import newest
from mmflow.train.storage import read_plain
from tests.processes import ranks
from tests.train.kills import compare, kill_repeatedly
from tests.train.runs import command, fit, losses


@pytest.mark.slow
def test_killed_five_times(tmp_path: Path) -> None:
    kill_repeatedly(tmp_path / "run", 5, seed=1)
    compare(tmp_path / "run", tmp_path / "whole")


def small_disk(limit: int) -> None:
    """No file of this process grows beyond so many bytes: what a full disk says, a write at a time."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


@pytest.mark.slow
@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_a_full_disk(on_error: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    every = ("--checkpoints.every_n_steps", 2)
    ((code, said),) = ranks(1, lambda: main(command(run, *every, "--trainer.max_steps", 2)), tmp_path / "a")
    assert code == 0, said

    def work() -> None:
        small_disk(200_000)
        given = ("--checkpoints.on_error", on_error, "--ckpt_path", "last", "--trainer.max_steps", 6)
        main(command(run, *every, *given))

    ((code, said),) = ranks(1, work, tmp_path / "b")
    assert "the checkpoint of step 4 could not be written" in said and "The last good one is kept" in said
    assert ("the run goes on" in said) == (on_error == "continue") and "Traceback" not in said
    assert code == (0 if on_error == "continue" else 1), said
    found = newest(run)
    assert found is not None and read_plain(found)["global_step"] == 2
    assert not [path for path in (run / "checkpoints").iterdir() if path.name.endswith(".part")]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="becomes another user to be refused")
def test_a_folder_that_is_no_longer_writable(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ((code, said),) = ranks(1, lambda: main(command(run, "--trainer.max_steps", 2)), tmp_path / "a")
    assert code == 0, said
    run.chmod(0o777)
    for path in run.iterdir():
        if path.name != "checkpoints":
            path.chmod(0o777)
    (run / "checkpoints").chmod(0o755)
    for parent in run.parents:
        if parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)

    def work() -> None:
        os.setuid(65534)
        main(command(run, "--ckpt_path", "last", "--trainer.max_steps", 4))

    ((code, said),) = ranks(1, work, tmp_path / "b")
    assert code == 1 and "could not be written" in said and "Traceback" not in said, said
    found = newest(run)
    assert found is not None and read_plain(found)["global_step"] == 2


class DieAfterSaving(Callback):
    """Kills its process once a checkpoint of so many steps is whole, before Lightning logs that step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_between_a_save_and_its_log_loses_no_row(tmp_path: Path) -> None:
    every = ("--checkpoints.every_n_steps", 2, "--trainer.max_steps", 3, "--resume", "auto")

    def work() -> None:
        cli = MmflowCLI(command(tmp_path / "run", *every))
        cli.trainer.callbacks.append(DieAfterSaving(2))
        cli.run()

    ((code, said),) = ranks(1, work, tmp_path / "a")
    assert code == -signal.SIGKILL and len(losses(tmp_path / "run")) == 1, said
    fit(tmp_path / "run", *every)
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "0", "1", "2"]
    assert all(len(row.split(",")) == len(rows[0].split(",")) and ",," not in row for row in rows)
