"""What Lightning would take from a checkpoint though the configuration has the last word."""

from typing import Any

import lightning.pytorch as pl
import torch

Settings = list[dict[str, Any]]
"""Of an optimizer: what each of its groups has beside its parameters."""


def settings_of(optimizer: torch.optim.Optimizer) -> Settings:
    """As the configuration has them."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def apply_settings(optimizer: torch.optim.Optimizer, settings: Settings) -> None:
    """Puts them back after a checkpoint's were loaded."""
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def count_micro_steps(trainer: pl.Trainer) -> None:
    """Lightning closes optimizer steps by the number of micro-steps since the run began, however many each had."""
    loop: Any = trainer.fit_loop.epoch_loop
    counted, done = loop.batch_progress.current, trainer.global_step * trainer.accumulate_grad_batches
    counted.ready = counted.started = counted.processed = done
    # What was saved at the end of a micro-step is not yet counted as completed; Lightning adds that one.
    counted.completed = done - int(loop.restarted_on_train_batch_end)
