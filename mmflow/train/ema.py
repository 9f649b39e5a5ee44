"""Exponential moving averages of the weights, of several lengths at once. Raw and averaged weights are all kept."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

CHECKPOINT_KEY = "ema"


@final
class Ema(Callback):
    """Averages the trained network after optimizer steps; stands in the checkpoint under its own key.

    Where the weights are cut over processes, so are the averages.

    Args:
        decay: per update; the paper's study uses 0.99 every 100 steps. Of several, each has an average of its own, and
            the first is the one that pictures are made with.
        every_n_steps: optimizer steps between updates.
        warmup: starts from a short average that lengthens to `decay`, so that a short run is not held to its start.
    """

    def __init__(self, decay: float | list[float] = 0.99, every_n_steps: int = 100, warmup: bool = True) -> None:
        decays = decay if isinstance(decay, list) else [decay]
        if not decays or not all(0 <= value < 1 for value in decays) or every_n_steps < 1:
            raise ValueError(f"need decay in [0, 1) and every_n_steps >= 1, got {decay} and {every_n_steps}")
        if len(set(decays)) < len(decays):
            raise ValueError(f"the decays of several averages must differ, got {decay}")
        self.decays, self.every_n_steps, self.warmup = decays, every_n_steps, warmup
        self.averages: dict[float, dict[str, Tensor]] = {}
        self.updates: dict[float, int] = {}
        """Of each average since it began."""
        self._last_step = 0

    @property
    def average(self) -> dict[str, Tensor]:
        """The first average; empty before training."""
        return self.averages.get(self.decays[0], {})

    @property
    def num_updates(self) -> int:
        """Of the first average."""
        return self.updates.get(self.decays[0], 0)

    def reset(self, network: nn.Module, decays: Sequence[float] | None = None) -> None:
        """Makes averages, all if not said which, equal to the weights of `network`."""
        for decay in self.decays if decays is None else decays:
            self.averages[decay] = {name: p.detach().clone() for name, p in network.named_parameters()}
            self.updates[decay] = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step
        self.reset(network_of(pl_module), [decay for decay in self.decays if decay not in self.averages])
        for decay, average in self.averages.items():
            self.averages[decay] = {name: value.to(pl_module.device) for name, value in average.items()}

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
        weights = dict(network.named_parameters())
        for decay, average in self.averages.items():
            self.updates[decay] = n = self.updates[decay] + 1
            now = min(decay, n / (n + 9)) if self.warmup else decay
            torch._foreach_lerp_(list(average.values()), [weights[name].detach() for name in average], 1 - now)

    @contextmanager
    def swapped(self, network: nn.Module) -> Iterator[None]:
        """Inside, `network` has the first average's weights; its own come back at the end, whatever happens."""
        parameters = dict(network.named_parameters())
        kept: dict[str, Tensor] = {}
        try:
            for name, value in self.average.items():
                kept[name] = put(parameters[name], value)
            yield
        finally:
            for name, value in kept.items():
                put(parameters[name], value, keep=False)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        others = {str(decay): self.averages[decay] for decay in self.decays[1:]}
        checkpoint[CHECKPOINT_KEY] = {
            "average": self.average,
            "others": others,
            "decays": list(self.decays),
            "num_updates": self.num_updates,
            "updates": [self.updates[decay] for decay in self.decays],
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Takes up the averages that the configuration still asks for; others begin at the checkpoint's weights."""
        saved = checkpoint.get(CHECKPOINT_KEY)
        if saved is None:
            return
        first, *rest = saved.get("decays", [self.decays[0]])
        found = {first: saved["average"], **{decay: saved["others"][str(decay)] for decay in rest}}
        updates = dict(zip(found, saved.get("updates", [saved["num_updates"]]), strict=True))
        self.averages = {decay: dict(found[decay]) for decay in self.decays if decay in found}
        self.updates = {decay: updates[decay] for decay in self.averages}


@torch.no_grad()
def put(parameter: Tensor, value: Tensor, keep: bool = True) -> Tensor:
    """Gives a parameter another value; returns the one that it had."""
    if isinstance(parameter, DTensor):
        # FSDP gathers from the memory that it cut the parameter into: the value must go there.
        had = parameter.detach().clone() if keep else value
        parameter.copy_(value)
        return had
    had = parameter.data
    parameter.data = value.to(had.device)
    return had


def network_of(module: pl.LightningModule) -> nn.Module:
    """The trained network of a module, which names it `backbone`."""
    network = module.backbone
    assert isinstance(network, nn.Module)
    return network


def find_ema(trainer: pl.Trainer) -> Ema | None:
    """The trainer's Ema callback, if it has one."""
    return next((c for c in trainer.callbacks if isinstance(c, Ema)), None)  # type: ignore[attr-defined]
