"""Paths between data and noise: z_t = a_t x0 + b_t eps (eq 2)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


def expand_like(per_sample: Float[Tensor, " B"], x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    """`per_sample` with as many trailing singleton axes as `x` has, so that the two broadcast."""
    return per_sample.reshape(-1, *(1,) * (x.ndim - 1))


class AbstractPath(ABC):
    """a_t and b_t with their derivatives; all of shape (B,) for t of shape (B,) in [0, 1]."""

    @abstractmethod
    def a(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Share of the data."""

    @abstractmethod
    def b(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Share of the noise."""

    @abstractmethod
    def da(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """da/dt."""

    @abstractmethod
    def db(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """db/dt."""

    def log_snr(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """lambda_t = log(a_t^2 / b_t^2) (section 2)."""
        return 2 * (self.a(t).log() - self.b(t).log())

    def interpolate(
        self, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """z_t = a_t x0 + b_t eps (eq 2)."""
        return expand_like(self.a(t), x0) * x0 + expand_like(self.b(t), x0) * eps

    def velocity(
        self, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """u_t = a'_t x0 + b'_t eps: eq 9 without its singularity at a_t = 0."""
        return expand_like(self.da(t), x0) * x0 + expand_like(self.db(t), x0) * eps


@final
@dataclass(frozen=True)
class RectifiedFlow(AbstractPath):
    """Straight lines: z_t = (1 - t) x0 + t eps (eq 13)."""

    def a(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return 1 - t

    def b(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return t

    def da(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return -torch.ones_like(t)

    def db(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.ones_like(t)
