"""Where t is drawn: each density maps a uniform u to t by its quantile function and knows its exact pdf (section
3.1).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_U = 2.0**-24  # half of fp32's spacing below 1: keeps quantiles finite without moving any other draw


class AbstractDensity(ABC):
    """A distribution of t on [0, 1]."""

    @abstractmethod
    def quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """t such that P(T <= t) = u, in fp32."""

    @abstractmethod
    def pdf(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """pi(t): integrates to 1 over [0, 1]."""


@final
@dataclass(frozen=True)
class Uniform(AbstractDensity):
    """t ~ U(0, 1)."""

    def quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return u

    def pdf(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.ones_like(t)


@final
@dataclass(frozen=True)
class LogitNormal(AbstractDensity):
    """logit(t) ~ N(mean, std^2) (eq 19): most draws in the middle, none at the ends.

    Attributes:
        mean: below 0 towards data, above 0 towards noise.
        std: standard deviation, > 0.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"std of LogitNormal must be positive, got {self.std}")

    def quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        u = u.clamp(SMALLEST_U, 1 - SMALLEST_U)
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def pdf(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        z = (torch.logit(t) - self.mean) / self.std
        inside = torch.exp(-0.5 * z.square()) / (self.std * math.sqrt(2 * math.pi) * t * (1 - t))
        return torch.where((t > 0) & (t < 1), inside, torch.zeros_like(t))
