"""What a run did, step by step and in hashes: for telling whether two runs did the same."""

import hashlib
import json
import math
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mmflow.batch import Batch
from mmflow.train.ema import find_ema


def digest(tensors: Iterable[Tensor]) -> str:
    """A hash of the values of tensors, bit for bit."""
    state = hashlib.blake2b(digest_size=12)
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        state.update(plain.view(torch.uint8).numpy().tobytes() if plain.ndim else plain.numpy().tobytes())
    return state.hexdigest()


def samples_of(batch: Batch) -> list[dict[str, Any]]:
    """What is told of every sample of a batch: its name, and hashes of what was drawn for it and read of it.

    `frames` covers crop, first frame and pixels, or the cached latents in their place.
    """
    raw = batch.raw or (None,) * len(batch.pixels)
    read = [x for pixels, cached in zip(batch.pixels, raw, strict=True) for x in (pixels if cached is None else cached)]
    noise = [[x] for group in batch.eps for x in group]
    if batch.posterior is not None:
        posterior = [x for group in batch.posterior for x in group]
        noise = [[*eps, x] for (eps, x) in zip(noise, posterior, strict=True)]
    told = zip(batch.keys, batch.visits, batch.captions, batch.u.tolist(), read, noise, strict=True)
    return [
        {
            "key": "/".join(map(str, key)),
            "visit": visit,
            "caption": caption,
            "kept": [] if batch.kept is None else batch.kept[i].tolist(),
            "t": float.hex(u),
            "frames": digest([x]),
            "noise": digest(drawn),
        }
        for i, (key, visit, caption, u, x, drawn) in enumerate(told)
    ]


@final
class Trace(Callback):
    """Writes a line of JSON for every micro-step of this rank, and, on the first rank, one for every optimizer step.

    Args:
        folder: of the files, one per rank; an existing one is added to.
        kill_after: optimizer steps after which the whole process group is killed (SIGKILL); None never.
    """

    def __init__(self, folder: Path, kill_after: int | None = None) -> None:
        self.folder, self.kill_after = folder, kill_after
        self._file: IO[str] | None = None
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / f"rank-{trainer.global_rank}.jsonl").open("a")
        self._step = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._step = trainer.global_step + 1
        holes = [{"key": "/".join(map(str, hole.key)), "hole": hole.reason} for hole in batch.holes]
        self._write({"step": self._step, "samples": samples_of(batch) + holes, "planned": batch.planned})

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not batch.closes_step:
            return
        if trainer.is_global_zero:
            self._write({"step": self._step, "after": self._after(trainer, pl_module)})
        trainer.strategy.barrier("traced")
        if self.kill_after is not None and trainer.global_step >= self.kill_after:
            os.killpg(os.getpgid(0), signal.SIGKILL)

    def _after(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Loss, learning rate, weights and their average, in full and in size."""
        optimizer: Any = pl_module.optimizers(use_pl_optimizer=False)
        ema = find_ema(trainer)
        weights = [p for p in pl_module.parameters() if p.requires_grad]
        average = [] if ema is None else list(ema.average.values())
        return {
            "loss": float(trainer.callback_metrics["train/loss"]),
            "lr": [group["lr"] for group in optimizer.param_groups],
            "weights": digest(weights),
            "ema": digest(average),
            "weights_norm": norm(weights),
            "ema_norm": norm(average),
        }

    def _write(self, line: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def norm(tensors: Iterable[Tensor]) -> float:
    """Of all values of tensors together."""
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))
