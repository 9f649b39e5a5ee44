"""A density that learns where to draw t, with weights that leave the objective as it is."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmflow.flow.density import AbstractDensity, AbstractSampler


@final
class Adaptive(nn.Module, AbstractDensity):
    """Draws t where gradients are large, and weighs them down by as much.

    With v = P(T <= t) under the base density, v is drawn from a piecewise constant r(v) and the loss is multiplied by
    1 / r, so that the expectation is the base's, whatever r. The variance of the gradient is least for r proportional
    to the root of the gradient's second moment at v. That moment is estimated where it is free: in the output of the
    network, w^2 times the mean squared error. It is part of checkpoints; each rank learns its own.

    Args:
        base: the density that says what the objective is.
        bins: pieces of r.
        floor: share of the draws that stay the base's: r is never below it, and no weight above 1 / floor. In (0, 1].
        decay: of the estimates, per step; they start as the base's.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, base: AbstractSampler, bins: int = 16, floor: float = 0.25, decay: float = 0.99) -> None:
        if bins < 2 or not 0 < floor <= 1 or not 0 <= decay < 1:
            raise ValueError(
                f"need bins >= 2, floor in (0, 1] and decay in [0, 1), got bins {bins}, floor {floor}, decay {decay}"
            )
        super().__init__()
        self.base, self.bins, self.floor, self.decay = base, bins, floor, decay
        self.register_buffer("sums", torch.zeros(bins))
        self.register_buffer("counts", torch.zeros(bins))

    def heights(self) -> Float[Tensor, " K"]:
        """r of each bin: its mean over the bins is 1."""
        seen = self.counts > 1
        moment = self.sums / self.counts.clamp(min=1)
        # A bin of which nothing is known is taken to be as the others are.
        known = (moment * seen).sum() / seen.sum().clamp(min=1)
        root = torch.where(seen, moment, known).sqrt()
        mean = root.mean()
        even = torch.where(mean > 0, root / mean.clamp(min=1e-12), torch.ones_like(root))
        return self.floor + (1 - self.floor) * even

    def _bin(self, t: Float[Tensor, "..."]) -> Tensor:
        inner = torch.arange(1, self.bins, device=t.device, dtype=t.dtype) / self.bins
        return torch.searchsorted(self.base.quantile(inner), t.contiguous(), right=True)

    def quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        heights = self.heights().to(u)
        ends = heights.cumsum(0) / self.bins
        at = torch.searchsorted(ends, u.contiguous(), right=True).clamp(max=self.bins - 1)
        within = (u - (ends - heights / self.bins)[at]) * self.bins / heights[at]
        return self.base.quantile(((at + within.clamp(0, 1)) / self.bins).clamp(0, 1))

    def pdf(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.base.pdf(t) * self.heights().to(t)[self._bin(t)]

    def weight(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 1 / self.heights().to(t)[self._bin(t)]

    @torch.no_grad()
    def observe(self, t: Float[Tensor, " B"], second_moment: Float[Tensor, " B"]) -> None:
        known = second_moment.isfinite()  # a sample that is no number teaches nothing
        at, values = self._bin(t[known]), second_moment[known].detach().to(self.sums)
        self.sums.mul_(self.decay).index_add_(0, at, values)
        self.counts.mul_(self.decay).index_add_(0, at, torch.ones_like(values))
