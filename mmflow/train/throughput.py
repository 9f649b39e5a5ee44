"""How fast a run goes: samples and visual tokens per second, and the share of the device's peak that they are (MFU).

MFU = FLOPs of the products, forward and backward / (seconds x peak), (Chowdhery et al. 2022, PaLM, appendix B). What is
computed again to save memory does not count.
"""

import time
from collections import deque
from typing import Any, Protocol, final, runtime_checkable

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from mmflow.batch import Batch


@runtime_checkable
class Meter(Protocol):
    """Knows what a step costs and what a device can do."""

    def flops(self, backbone: Any, batch: Batch) -> float | None:
        """Of a micro-step on this rank, forward and backward; None where the network is none that it knows."""

    def peak(self, device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
        """FLOPs per second, and where the number is from; 0 and the reason where nothing is known."""


@final
class Throughput(Callback):
    """Rates over the last optimizer steps, over all ranks; logged and shown in the progress bar.

    Args:
        window: micro-steps that the rates are taken over.
        log_every_n_steps: optimizer steps between logged rates.
        meter: for the utilisation; None states none.
    """

    def __init__(self, window: int = 50, log_every_n_steps: int = 20, meter: Meter | None = None) -> None:
        self.window, self.log_every_n_steps, self.meter = window, log_every_n_steps, meter
        self._marks: deque[tuple[float, int, int, float]] = deque(maxlen=window + 1)
        self._samples = self._tokens = 0
        self._flops = self._peak = 0.0

    @property
    def rates(self) -> tuple[float, float]:
        """(samples, visual tokens) per second; zeros before the second step."""
        if len(self._marks) < 2:
            return 0.0, 0.0
        (t0, s0, n0, _), (t1, s1, n1, _) = self._marks[0], self._marks[-1]
        seconds = max(t1 - t0, 1e-9)
        return (s1 - s0) / seconds, (n1 - n0) / seconds

    @property
    def mfu(self) -> float | None:
        """Of this rank; None where the peak or the network's cost is not known, or before the second step."""
        if len(self._marks) < 2 or not self._peak or not self._flops:
            return None
        first, last = self._marks[0], self._marks[-1]
        return (last[3] - first[3]) / (max(last[0] - first[0], 1e-9) * self._peak)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.meter is None:
            return
        dtype: torch.dtype = pl_module.autocast_dtype or torch.float32  # type: ignore[assignment]
        self._peak, source = self.meter.peak(pl_module.device, dtype)
        if trainer.is_global_zero:
            formula = "FLOPs of the products, forward and backward / (seconds x"
            peak = f"{self._peak / 1e12:.3g} TFLOP/s a rank), {source}"
            print(f"MFU = {formula} {peak}" if self._peak else f"MFU: not stated, {source}", flush=True)

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
        if self._peak and self.meter is not None:
            self._flops += self.meter.flops(backbone, batch) or 0.0
        self._marks.append((time.perf_counter(), self._samples, self._tokens, self._flops))
        if (trainer.global_step + 1) % self.log_every_n_steps == 0:
            samples, tokens = self.rates
            values = {"speed/samples_per_s": samples, "speed/visual_tokens_per_s": tokens}
            values |= {} if self.mfu is None else {"speed/mfu": self.mfu}
            pl_module.log_dict(values, batch_size=1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pause()
