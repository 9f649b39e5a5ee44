"""What goes wrong in a run, at a stated step of its first start: a callback for `trainer.callbacks`."""

import atexit
import os
import signal
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class Fault(Callback):
    """Raises, sleeps for ever, kills its process, or breaks it when all is done; and makes every step of the first
    start take some time.

    Args:
        kind: what happens.
        rank: to which process.
        step: after so many optimizer steps.
        seconds: that each step takes longer.
    """

    def __init__(self, kind: str = "none", rank: int = 1, step: int = 3, seconds: float = 0.0) -> None:
        self.kind, self.rank, self.step, self.seconds = kind, rank, step, seconds

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
            return
        time.sleep(self.seconds)
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            if self.kind == "raise":
                raise KeyError("a fault of this rank")
            if self.kind == "sleep":
                time.sleep(3600)
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "exit":
                atexit.register(os.abort)
