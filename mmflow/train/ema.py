"""Exponential moving average of the weights. Raw and averaged weights are both kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

CHECKPOINT_KEY = "ema"


@final
class Ema(Callback):
    """Averages the trained network after optimizer steps; stands in the checkpoint under its own key.

    Args:
        decay: per update; the paper's study uses 0.99 every 100 steps.
        every_n_steps: optimizer steps between updates.
        warmup: starts from a short average that lengthens to `decay`, so that a short run is not held to its start.
    """

    def __init__(self, decay: float = 0.99, every_n_steps: int = 100, warmup: bool = True) -> None:
        if not 0 <= decay < 1 or every_n_steps < 1:
            raise ValueError(f"need decay in [0, 1) and every_n_steps >= 1, got {decay} and {every_n_steps}")
        self.decay, self.every_n_steps, self.warmup = decay, every_n_steps, warmup
        self.average: dict[str, Tensor] = {}
        self.num_updates = 0
        self._last_step = 0

    def reset(self, network: nn.Module) -> None:
        """Makes the average equal to the weights of `network`."""
        self.average = {name: p.detach().clone() for name, p in network.named_parameters()}
        self.num_updates = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step
        if not self.average:
            self.reset(network_of(pl_module))
        self.average = {name: value.to(pl_module.device) for name, value in self.average.items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step != self._last_step and step % self.every_n_steps == 0:
            self.update(network_of(pl_module))
        self._last_step = step

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """average <- average + (1 - decay) (weights - average)."""
        self.num_updates += 1
        decay = min(self.decay, self.num_updates / (self.num_updates + 9)) if self.warmup else self.decay
        weights = dict(network.named_parameters())
        torch._foreach_lerp_(list(self.average.values()), [weights[n].detach() for n in self.average], 1 - decay)

    @contextmanager
    def swapped(self, network: nn.Module) -> Iterator[None]:
        """Inside, `network` has the averaged weights; its own come back at the end, whatever happens."""
        parameters = dict(network.named_parameters())
        kept = {name: parameters[name].data for name in self.average}
        try:
            for name, value in self.average.items():
                parameters[name].data = value.to(kept[name].device)
            yield
        finally:
            for name, value in kept.items():
                parameters[name].data = value

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CHECKPOINT_KEY] = {"average": self.average, "num_updates": self.num_updates}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if CHECKPOINT_KEY in checkpoint:
            self.average = dict(checkpoint[CHECKPOINT_KEY]["average"])
            self.num_updates = checkpoint[CHECKPOINT_KEY]["num_updates"]


def network_of(module: pl.LightningModule) -> nn.Module:
    """The trained network of a module, which names it `backbone`."""
    network = module.backbone
    assert isinstance(network, nn.Module)
    return network


def find_ema(trainer: pl.Trainer) -> Ema | None:
    """The trainer's Ema callback, if it has one."""
    return next((c for c in trainer.callbacks if isinstance(c, Ema)), None)  # type: ignore[attr-defined]
