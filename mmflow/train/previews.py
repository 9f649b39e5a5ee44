"""Pictures and clips of the same prompts and seeds, made again and again during training: one sees the model learn."""

from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.callbacks import Callback

from mmflow.batch import Request, request_batches
from mmflow.export import caption_grid, write_mp4, write_png
from mmflow.train.goodput import counted_as
from mmflow.train.loggers import find_wandb
from mmflow.train.preemption import is_stopped
from mmflow.train.throughput import Throughput


@final
class Previews(Callback):
    """Writes `previews/step-000000500/`: a captioned grid of all, and an MP4 of every clip; also to W&B.

    Args:
        every_n_steps: optimizer steps between previews; there is one more at the end. 0 makes none.
        num_pictures: pictures in a preview.
        num_clips: clips in a preview.
        seed: of all of them.
    """

    def __init__(self, every_n_steps: int = 500, num_pictures: int = 12, num_clips: int = 4, seed: int = 0) -> None:
        if min(every_n_steps, num_pictures, num_clips) < 0:
            raise ValueError(f"previews need non-negative numbers, got {every_n_steps}, {num_pictures}, {num_clips}")
        self.every_n_steps, self.seed = every_n_steps, seed
        self.num_pictures, self.num_clips = num_pictures, num_clips
        self._last_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.every_n_steps and step != self._last_step and step % self.every_n_steps == 0:
            self.make(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.every_n_steps and trainer.global_step != self._last_step and not is_stopped(trainer):
            self.make(trainer, pl_module)

    def make(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes, writes and logs one preview. To be called on every rank; the first one does it."""
        self._last_step = trainer.global_step
        module: Any = pl_module
        with counted_as(trainer, "evaluate"), module.evaluated():
            if trainer.is_global_zero:
                self._make(trainer, module)

    def _make(self, trainer: pl.Trainer, module: Any) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        requests: list[Request] = data.mix.preview_requests(self.num_pictures, self.num_clips, self.seed)
        made = {
            request.index: (request, frames)
            for batch in request_batches(requests, module.sampling.batch_size)
            for request, frames in zip(batch, module.make(batch, data.encoders), strict=True)
        }
        folder = self.folder(trainer) / f"step-{trainer.global_step:09d}"
        folder.mkdir(parents=True, exist_ok=True)
        items = [(frames, request.prompt) for _, (request, frames) in sorted(made.items())]
        grid = caption_grid(items, columns=4)
        write_png(folder / "grid.png", np.asarray(grid))
        clips = {}
        for index, (request, frames) in sorted(made.items()):
            if request.frames > 1:
                clips[f"previews/clip_{index:02d}"] = write_mp4(folder / f"clip-{index:02d}.mp4", frames, data.fps)
        wandb = find_wandb(trainer.loggers)
        if wandb is not None:
            wandb.show(trainer.global_step, {"previews/grid": folder / "grid.png"}, clips)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Throughput):
                callback.pause()

    @staticmethod
    def folder(trainer: pl.Trainer) -> Path:
        """Where a run's previews lie."""
        return Path(trainer.default_root_dir) / "previews"
