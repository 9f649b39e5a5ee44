"""Stopping a run from outside, at any moment and without losing a step: signals, and a file named STOP.

A signal's handler only sets a flag. After every optimizer step all processes agree on the flags; if there is one, the
run ends as it always does, with an ordinary checkpoint, and only then asks SLURM to start it again.
"""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import FrameType
from typing import Any, final

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from mmflow.train.history import append

STOP = "STOP"
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


RECEIVED: set[int] = set()
"""Signals that came since `listening` began, or training did."""


def _note(signum: int, frame: FrameType | None) -> None:
    RECEIVED.add(signum)


@contextmanager
def listening() -> Iterator[None]:
    """Inside, a signal is noted and ends nothing: it may come while a run still reads its encoders."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    RECEIVED.clear()
    before = {signum: signal.signal(signum, _note) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Reason(IntEnum):
    """Why a run stops; of several the largest counts."""

    NONE = 0
    FILE = 1
    TIME_LIMIT = 2
    TERMINATED = 3


SAID = {
    Reason.FILE: "a file STOP in the run directory",
    Reason.TIME_LIMIT: "SIGUSR1, as SLURM announces the end of the time limit",
    Reason.TERMINATED: "SIGTERM, as SLURM announces a preemption",
}


@final
class Preemption(Callback):
    """Ends a run with a checkpoint on SIGUSR1, SIGTERM or `touch RUN/STOP`, and starts a SLURM job again.

    Args:
        requeue: after SIGUSR1, or SIGTERM in a job that nobody cancelled, the SLURM job is put back into the queue.
    """

    def __init__(self, requeue: bool = True) -> None:
        self.requeue = requeue
        self.reason = Reason.NONE
        """What the processes agreed on."""
        self._group: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.reason = Reason.NONE
        # In host memory, so that no step waits for the device.
        self._group = dist.new_group(backend="gloo") if trainer.world_size > 1 else None
        if trainer.is_global_zero:
            self._file(trainer).unlink(missing_ok=True)
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:  # in place of Lightning's, which puts back at the end what was there before both
                signal.signal(signum, _note)

    @staticmethod
    def _file(trainer: pl.Trainer) -> Path:
        return Path(trainer.default_root_dir) / STOP

    def _own(self, trainer: pl.Trainer) -> Reason:
        """What this process knows of."""
        if signal.SIGTERM in RECEIVED:
            return Reason.TERMINATED
        if signal.SIGUSR1 in RECEIVED:
            return Reason.TIME_LIMIT
        return Reason.FILE if trainer.is_global_zero and self._file(trainer).exists() else Reason.NONE

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not batch.closes_step:
            return
        agreed = torch.tensor(int(self._own(trainer)))
        if self._group is not None:
            dist.all_reduce(agreed, dist.ReduceOp.MAX, group=self._group)
        if int(agreed) == Reason.NONE:
            return
        self.reason = Reason(int(agreed))
        if trainer.is_global_zero:
            self._file(trainer).unlink(missing_ok=True)
            print(f"mmflow: stopping after step {trainer.global_step}: {SAID[self.reason]}", flush=True)
        trainer.should_stop = True
        trainer.limit_val_batches = 0  # Lightning would validate before it stops, and there may be no time

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.reason != Reason.NONE and trainer.is_global_zero:
            append(Path(trainer.default_root_dir), "stop", trainer.global_step, reason=self.reason.name.lower())

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        RECEIVED.clear()

    def wants_requeue(self) -> bool:
        """Whether the job is to be started again."""
        if not self.requeue or "SLURM_JOB_ID" not in os.environ:
            return False
        if self.reason == Reason.TERMINATED:
            return is_running(job_id())
        return self.reason == Reason.TIME_LIMIT


def find_preemption(trainer: pl.Trainer) -> Preemption | None:
    """The trainer's Preemption callback, if it has one."""
    return next((c for c in trainer.callbacks if isinstance(c, Preemption)), None)  # type: ignore[attr-defined]


def is_stopped(trainer: pl.Trainer) -> bool:
    """Whether a run ends early, so that what belongs to its end is left to its continuation."""
    found = find_preemption(trainer)
    return found is not None and found.reason != Reason.NONE


def job_id() -> str:
    """This SLURM job's name for scontrol; of an array, the task's."""
    env = os.environ
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env["SLURM_JOB_ID"]


def is_running(job: str) -> bool:
    """Whether a job runs and nobody has cancelled it: a preempted one does until its grace time is over."""
    said = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False).stdout
    state = re.search(r"JobState=(\S+)", said)
    return state is not None and state[1] == "RUNNING"


def requeue(job: str) -> bool:
    """Puts a job back into SLURM's queue, which ends it here; whether that was done."""
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"mmflow: scontrol requeue {job} failed ({done.stderr.strip()}): submit the job again", flush=True)
    return done.returncode == 0
