"""Validation loss, stratified over t: the paper's mean over equidistant levels without the last (section 5.3.3)."""

from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from mmflow.batch import LEVELS

NUM_LEVELS = len(LEVELS)


@final
class LevelLoss(Metric):
    """Sums of loss per (medium, level) in float64, over all ranks."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(2, NUM_LEVELS, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(2, NUM_LEVELS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, loss: Float[Tensor, " B"], t: Float[Tensor, " B"], clip: Bool[Tensor, " B"]) -> None:
        """Adds losses that were taken at t, a member of LEVELS."""
        level = (t * NUM_LEVELS).round().long() - 1
        index = clip.long() * NUM_LEVELS + level
        self.total.view(-1).index_add_(0, index, loss.detach().double())
        self.count.view(-1).index_add_(0, index, torch.ones_like(loss, dtype=torch.float64))

    def compute(self) -> dict[str, float]:
        """`val/loss` over both media, `val/loss_picture`, `val/loss_clip` and `val/loss_picture/t=0.125` and so on.

        A medium's loss is the mean over its levels but t=1, whose loss is the spread of the data and says little of the
        network; `val/loss` is the mean over the media that there are.
        """
        values: dict[str, float] = {}
        for medium, total, count in zip(("picture", "clip"), self.total, self.count, strict=True):
            if not bool((count > 0).all()):
                continue
            levels = total / count
            values[f"val/loss_{medium}"] = float(levels[:-1].mean())
            values |= {f"val/loss_{medium}/t={t}": float(x) for t, x in zip(LEVELS, levels, strict=True)}
        means = [values[name] for name in ("val/loss_picture", "val/loss_clip") if name in values]
        return {"val/loss": sum(means) / len(means), **values} if means else values
