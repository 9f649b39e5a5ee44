"""A run that is stopped from outside ends with a checkpoint, and goes on as if it had not been."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback

from mmflow.cli import MmflowCLI
from mmflow.train.history import read_history
from mmflow.train.preemption import Preemption, Reason, job_id, requeue
from mmflow.train.saved import newest
from mmflow.train.storage import read_plain
from tests.train.runs import command, fit, losses

FEW = ("--trainer.max_steps", 4, "--checkpoints.every_n_steps", 100, "--trainer.val_check_interval", 100)


class Disturb(Callback):
    """Does something to a run after so many of its steps, on one rank."""

    def __init__(self, how: str, step: int, rank: int = 0) -> None:
        self.how, self.step, self.rank = how, step, rank

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step - 1 and trainer.global_rank == self.rank:
            if self.how == "STOP":
                (Path(trainer.default_root_dir) / "STOP").touch()
            else:
                os.kill(os.getpid(), getattr(signal, self.how))


def test_each_way_to_stop(tmp_path: Path) -> None:
    """The step is finished and saved; nothing is validated or sampled; the next start goes on."""
    run, before = tmp_path / "run", [signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGTERM)]
    extra = ("--previews.every_n_steps", 100, "--scores.quick.prompts", 1, "--resume", "auto")
    for step, how in ((1, "SIGUSR1"), (2, "SIGTERM"), (3, "STOP")):
        cli = MmflowCLI(command(run, *FEW, *extra))
        cli.trainer.callbacks.append(Disturb(how, step))
        cli.run()
        found = newest(run)
        assert found is not None and read_plain(found)["global_step"] == step
        assert not (run / "previews").exists() and not (run / "results.json").exists() and not (run / "STOP").exists()
    assert before == [signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGTERM)]
    stops = [line for line in read_history(run) if line["event"] == "stop"]
    assert [line["reason"] for line in stops] == ["time_limit", "terminated", "file"]
    MmflowCLI(command(run, *FEW, "--resume", "auto")).run()
    assert len(losses(run)) == 4
    MmflowCLI(command(tmp_path / "whole", *FEW)).run()
    np.testing.assert_array_equal(losses(run), losses(tmp_path / "whole"))


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes(tmp_path: Path) -> None:
    """Both stop after the same step; loader workers, which get it as well, do not mind."""
    workers = ("--data.num_workers", 1)
    one = "--trainer.callbacks+=tests.train.test_preemption.Disturb --trainer.callbacks.init_args.how=SIGTERM"
    given = (*one.split(), "--trainer.callbacks.init_args.step=2", "--trainer.callbacks.init_args.rank=1")
    fit(tmp_path / "run", *FEW, *workers, *given, num=2)
    assert losses(tmp_path / "run") and len(losses(tmp_path / "run")) == 2
    fit(tmp_path / "run", *FEW, *workers, "--ckpt_path", "last", num=2)
    fit(tmp_path / "whole", *FEW)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "whole"), rtol=2e-5)


def scontrol(folder: Path, said: str, status: int = 0) -> None:
    """A program of that name that notes how it was called."""
    path = folder / "scontrol"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/called\necho "{said}"\nexit {status}\n')
    path.chmod(0o755)


def test_when_a_job_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    stopped = Preemption()
    stopped.reason = Reason.TIME_LIMIT
    assert not stopped.wants_requeue(), "outside of SLURM"
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    scontrol(tmp_path, "JobId=17 JobState=RUNNING")
    answers = {}
    for reason in Reason:
        stopped.reason = reason
        answers[reason.name] = stopped.wants_requeue()
    assert answers == {"NONE": False, "FILE": False, "TIME_LIMIT": True, "TERMINATED": True}
    scontrol(tmp_path, "JobId=17 JobState=COMPLETING")
    assert not stopped.wants_requeue(), "SIGTERM of a job that was cancelled"
    refuses = Preemption(requeue=False)
    refuses.reason = Reason.TIME_LIMIT
    assert not refuses.wants_requeue()
    (tmp_path / "called").unlink()
    assert requeue(job_id())
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeue(job_id()) and (tmp_path / "called").read_text() == "requeue 17\nrequeue 5_3\n"
    scontrol(tmp_path, "no", status=1)
    assert not requeue(job_id())
