"""The two numbers that say early that training at high resolution will diverge (paper section 5.3.2, Fig 5)."""

from typing import Any, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from mmflow.model.probe import Seen, probed
from mmflow.train.throughput import Throughput


@final
class AttentionProbes(Callback):
    """Logs the largest attention logit and the mean attention entropy, in nats, of the step that was just taken.

    `attention/max_logit_last` and `attention/entropy_last` are means over the last blocks, where the paper saw logits
    grow and entropy collapse without QK-norm; `..._all` are means over all blocks. One more forward pass without
    gradients each time, in the training precision; the numbers are those of rank 0's samples.

    Args:
        every_n_steps: optimizer steps between probes; 0 makes none.
        last_blocks: how many blocks from the end are the last; the paper's Fig 5 takes 5.
    """

    def __init__(self, every_n_steps: int = 0, last_blocks: int = 5) -> None:
        if every_n_steps < 0 or last_blocks < 1:
            raise ValueError(f"probes need every_n_steps >= 0 and last_blocks >= 1: {every_n_steps}, {last_blocks}")
        self.every_n_steps, self.last_blocks = every_n_steps, last_blocks

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.every_n_steps or not batch.closes_step or trainer.global_step % self.every_n_steps:
            return
        module: Any = pl_module
        with torch.no_grad(), module.autocast(), probed(module.backbone) as probe:
            t = module.objective.time(batch.u, batch.latents)
            module.objective.at(module.backbone, batch.latents, batch.conditioning, t, batch.eps)
        # A rank whose bag is empty goes along, since the others may wait for it, and has nothing to say.
        values = summary(probe.blocks, self.last_blocks) if len(batch) else {}
        for logger in trainer.loggers if values else ():
            # At once: Lightning's own log would repeat them at every step until the next ones.
            logger.log_metrics(values, trainer.global_step)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Throughput):
                callback.pause()


def summary(blocks: list[Seen], last: int) -> dict[str, float]:
    """Means over the last blocks and over all of them."""
    values = {}
    for name, part in (("last", blocks[-last:]), ("all", blocks)):
        values[f"attention/max_logit_{name}"] = sum(seen.max_logit for seen in part) / len(part)
        values[f"attention/entropy_{name}"] = sum(seen.mean_entropy for seen in part) / len(part)
    return values
