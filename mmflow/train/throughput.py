"""How fast a run goes: samples and visual tokens per second."""

import time
from collections import deque
from typing import Any, final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from mmflow.batch import Batch


@final
class Throughput(Callback):
    """Rates over the last optimizer steps, over all ranks; logged and shown in the progress bar.

    Args:
        window: micro-steps that the rates are taken over.
        log_every_n_steps: optimizer steps between logged rates.
    """

    def __init__(self, window: int = 50, log_every_n_steps: int = 20) -> None:
        self.window, self.log_every_n_steps = window, log_every_n_steps
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=window + 1)
        self._samples = self._tokens = 0

    @property
    def rates(self) -> tuple[float, float]:
        """(samples, visual tokens) per second; zeros before the second step."""
        if len(self._marks) < 2:
            return 0.0, 0.0
        (t0, s0, n0), (t1, s1, n1) = self._marks[0], self._marks[-1]
        seconds = max(t1 - t0, 1e-9)
        return (s1 - s0) / seconds, (n1 - n0) / seconds

    def pause(self) -> None:
        """Forgets the past: what comes between two steps now is not training."""
        self._marks.clear()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert batch.latents is not None
        backbone: Any = pl_module.backbone
        self._samples += len(batch) * trainer.world_size
        self._tokens += trainer.world_size * sum(
            len(z) * backbone.check_shape(*z.shape[2:]) for z in batch.latents if len(z)
        )
        self._marks.append((time.perf_counter(), self._samples, self._tokens))
        if (trainer.global_step + 1) % self.log_every_n_steps == 0:
            samples, tokens = self.rates
            pl_module.log_dict({"speed/samples_per_s": samples, "speed/visual_tokens_per_s": tokens}, batch_size=1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pause()
