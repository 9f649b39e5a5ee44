"""One optimizer step again, and each of its samples alone."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from mmflow.batch import Batch, Conditioning, Key
from mmflow.train.guard import gradient_norm


class DoneError(Exception):
    """The step was repeated up to its gradients; what comes after it is not wanted."""


@final
class Catch(Callback):
    """Keeps the micro-steps of one optimizer step and the norm of its gradients, and ends the run there.

    Args:
        step: optimizer steps before it.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self.batches: list[Batch] = []
        self.norm = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            self.batches.append(batch)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.global_step == self.step:
            self.norm = gradient_norm(pl_module.backbone)  # type: ignore[arg-type]
            raise DoneError


@dataclass(frozen=True)
class Seen:
    """A sample alone.

    Attributes:
        key: whose.
        visit: passes over its source before.
        t: time.
        loss: its own.
        gradient_norm: of its share of the step's loss.
    """

    key: Key
    visit: int
    t: float
    loss: float
    gradient_norm: float

    def is_number(self) -> bool:
        """Whether it could be learned from."""
        return bool(torch.tensor([self.loss, self.gradient_norm]).isfinite().all())


def singles(batch: Batch) -> Iterator[Batch]:
    """The samples of a batch, each as a batch of its own."""
    assert batch.latents is not None and batch.conditioning is not None
    known, text, place = batch.conditioning.known, batch.conditioning.text, 0
    for group, (z, eps) in enumerate(zip(batch.latents, batch.eps, strict=True)):
        for i in range(len(z)):
            given = None if known is None else (known[group].select([i]),)
            yield dataclasses.replace(
                batch,
                latents=(z[i : i + 1],),
                eps=(eps[i : i + 1],),
                u=batch.u[place : place + 1],
                keys=batch.keys[place : place + 1],
                visits=batch.visits[place : place + 1],
                conditioning=Conditioning(text.select([place]), given),
            )
            place += 1


def look_at(module: Any, batches: list[Batch]) -> list[Seen]:
    """Every sample of a step alone, those first that are no numbers, then by the norm of their gradients."""
    found = []
    for single in (single for batch in batches for single in singles(batch)):
        module.zero_grad()
        with module.autocast():
            loss, t = module.objective(module.backbone, single.latents, single.conditioning, single.u, single.eps)
        (loss.sum() / single.planned).backward()
        norm = gradient_norm(module.backbone)
        found.append(Seen(single.keys[0], single.visits[0], float(t[0]), float(loss[0]), norm))
    return sorted(found, key=lambda seen: (seen.is_number(), -seen.gradient_norm))
