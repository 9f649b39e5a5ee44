"""Checkpoints of a run: written whole or not at all, the newest few kept."""

import os
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


@final
class Checkpoints(Callback):
    """Saves `checkpoints/step-000001000.ckpt` after optimizer steps and at the end; `last.ckpt` is the newest.

    A file is written under another name and renamed, so that a stop at any moment leaves the previous one whole.

    Args:
        every_n_steps: optimizer steps between checkpoints.
        keep: numbered checkpoints that are kept, the newest ones; -1 keeps all.
    """

    def __init__(self, every_n_steps: int = 1000, keep: int = 2) -> None:
        if every_n_steps < 1 or keep == 0 or keep < -1:
            raise ValueError(f"need every_n_steps >= 1 and keep >= 1 or -1, got {every_n_steps} and {keep}")
        self.every_n_steps, self.keep = every_n_steps, keep
        self._last_step = -1

    @staticmethod
    def folder(trainer: pl.Trainer) -> Path:
        """Where a run's checkpoints lie."""
        return Path(trainer.default_root_dir) / "checkpoints"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._last_step and trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._last_step:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes a numbered checkpoint and makes `last.ckpt` the same file."""
        folder, step = self.folder(trainer), trainer.global_step
        self._last_step = step
        target, writing = folder / f"step-{step:09d}.ckpt", folder / f".step-{step:09d}.part"
        trainer.save_checkpoint(writing)
        if trainer.is_global_zero:
            os.replace(writing, target)
            link = folder / ".last.part"
            link.unlink(missing_ok=True)
            os.link(target, link)
            os.replace(link, folder / "last.ckpt")
            numbered = sorted(folder.glob("step-*.ckpt"))
            for old in numbered[: -self.keep] if self.keep > 0 else []:
                old.unlink()
        trainer.strategy.barrier("checkpoint")
