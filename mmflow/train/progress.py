"""The progress bar of a training run."""

import time
from datetime import timedelta
from typing import Any, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn
from torch import Tensor

from mmflow.train.throughput import Throughput

SMOOTHING = 0.98
REDRAW_SECONDS = 0.25
"""Between two looks at the loss, which wait for the device."""


@final
class TrainingBar(ProgressBar):
    """Loss, samples/s, visual tokens/s, MFU and time left. In a log file it prints a line now and then instead.

    Args:
        plain_every_n_steps: steps between lines where the output is no terminal.
    """

    def __init__(self, plain_every_n_steps: int = 100) -> None:
        super().__init__()
        self.plain_every_n_steps = plain_every_n_steps
        self.console = Console()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._loss: Tensor | None = None
        self._enabled = True
        self._drawn = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._enabled and trainer.is_global_zero and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("training", total=1.0, numbers="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not (self._enabled and trainer.is_global_zero):
            return
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None:
            # On the device: a number on the host would make every step wait for it.
            self._loss = loss.clone() if self._loss is None else torch.lerp(loss, self._loss, SMOOTHING)
        if self._bar is not None:
            now = time.monotonic()
            if now - self._drawn >= REDRAW_SECONDS:
                self._drawn = now
                numbers = self._numbers(trainer, pl_module)
                self._bar.update(self._task, completed=self._progress(pl_module), numbers=numbers)
        elif trainer.global_step % self.plain_every_n_steps == 0:
            self.console.print(f"{100 * self._progress(pl_module):3.0f}%  {self._numbers(trainer, pl_module)}")

    def _progress(self, pl_module: pl.LightningModule) -> float:
        share: float = pl_module.progress()  # type: ignore[operator]
        return share

    def _numbers(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> str:
        parts = [f"step {trainer.global_step}" + (f"/{trainer.max_steps}" if trainer.max_steps > 0 else "")]
        if self._loss is not None:
            parts.append(f"loss {float(self._loss):.4f}")
        meter = next((c for c in trainer.callbacks if isinstance(c, Throughput)), None)  # type: ignore[attr-defined]
        if meter is not None and meter.rates[0]:
            samples, tokens = meter.rates
            parts += [f"{samples:.0f} samples/s", f"{tokens:.0f} visual tokens/s"]
            parts += [] if meter.mfu is None else [f"MFU {meter.mfu:.1%}"]
        left = self._seconds_left(pl_module)
        if left is not None:
            parts.append(f"{timedelta(seconds=round(left))} left")
        return "  ".join(parts)

    def _seconds_left(self, pl_module: pl.LightningModule) -> float | None:
        left: float | None = pl_module.seconds_left()  # type: ignore[operator]
        return left

    def stop(self) -> None:
        """Leaves the terminal to others."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.stop()


def stop_bar(trainer: pl.Trainer) -> None:
    """Ends the training bar, for those who print or draw a bar of their own; training goes on with plain lines."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, TrainingBar):
            callback.stop()
