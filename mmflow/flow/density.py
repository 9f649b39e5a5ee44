"""Where t is drawn: each density maps a uniform u to t by its quantile function and knows its exact pdf (section 3.1).

Drawing t from pi and weighing a uniform draw by pi(t) have the same expectation (eq 18). A density does one of the
two: itself it is drawn from, inside `AsWeight` it weighs.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.shift import shift_time

SMALLEST_U = 2.0**-24  # half of fp32's spacing below 1: keeps quantiles finite without moving any other draw
LARGEST_MODE_SCALE = 2 / (math.pi - 2)
BISECTIONS = 60


class AbstractDensity(ABC):
    """A distribution of t on [0, 1]."""

    @abstractmethod
    def quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """t such that P(T <= t) = u, in fp32."""

    @abstractmethod
    def pdf(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """pi(t): integrates to 1 over [0, 1]."""

    @abstractmethod
    def weight(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What the loss at a t that was drawn here is multiplied by."""

    def observe(self, t: Float[Tensor, " B"], second_moment: Float[Tensor, " B"]) -> None:  # noqa: B027
        """Told after every training loss: w^2 times the mean squared error at each t that was drawn. Most ignore it."""


class AbstractSampler(AbstractDensity):
    """A density that says what it says by where it draws, and leaves the loss alone."""

    def weight(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.ones_like(t)


@final
@dataclass(frozen=True)
class Uniform(AbstractSampler):
    """t ~ U(0, 1)."""

    def quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return u

    def pdf(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.ones_like(t)


@final
@dataclass(frozen=True)
class LogitNormal(AbstractSampler):
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


@final
@dataclass(frozen=True)
class Mode(AbstractSampler):
    """Mode sampling with heavy tails (eq 20): more or fewer draws in the middle, yet some everywhere.

    Attributes:
        scale: s, from -1 (the ends) over 0 (uniform) to 2 / (pi - 2), about 1.7519 (the middle).
    """

    scale: float = 0.0

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= LARGEST_MODE_SCALE:
            raise ValueError(
                f"the scale s of Mode must lie in [-1, 2 / (pi - 2) = {LARGEST_MODE_SCALE:.4f}], outside of which eq "
                f"20 is not monotone; got {self.scale}"
            )

    def quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """f_mode(1 - u) of eq 20, which falls in its argument."""
        return u - self.scale * (torch.sin(math.pi / 2 * u).square() - u)

    def pdf(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1 / f'(u) at the u that bisection finds: eq 20 has no inverse in closed form."""
        low, high = torch.zeros_like(t, dtype=torch.float64), torch.ones_like(t, dtype=torch.float64)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = self.quantile(middle) < t
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        slope = 1 + self.scale - math.pi * self.scale / 2 * torch.sin(math.pi * (low + high) / 2)
        return slope.reciprocal().to(t.dtype)


@final
@dataclass(frozen=True)
class CosMap(AbstractSampler):
    """t whose log-SNR on the rectified flow is spread as that of a uniform t on the cosine path (eqs 21, 22)."""

    def quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1 - 1 / (tan(pi u / 2) + 1) without its infinity at u = 1."""
        sin, cos = torch.sin(math.pi / 2 * u), torch.sin(math.pi / 2 * (1 - u))
        return sin / (sin + cos)

    def pdf(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return 2 / (math.pi * (1 - 2 * t + 2 * t.square()))


@final
@dataclass(frozen=True)
class Shifted(AbstractDensity):
    """Another density after the shift of eq 23, for those who want it in the density instead of in `shift`.

    Attributes:
        density: where t is drawn before.
        alpha: of the shift, > 0.
    """

    density: AbstractDensity
    alpha: float = 3.0

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise ValueError(f"alpha of Shifted must be positive, got {self.alpha}")

    def quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return shift_time(self.density.quantile(u), self.alpha)

    def pdf(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """pi(t_n) dt_n / dt_m, the inverse of a shift being the shift by 1 / alpha."""
        inverse = 1 / self.alpha
        return self.density.pdf(shift_time(t, inverse)) * inverse / (1 + (inverse - 1) * t).square()

    def weight(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.density.weight(shift_time(t, 1 / self.alpha))


@final
@dataclass(frozen=True)
class AsWeight(AbstractDensity):
    """A density as the weight of a uniformly drawn t (eq 18): the same objective, another variance.

    Attributes:
        density: whose pdf weighs; it may be shifted, but must not weigh itself.
    """

    density: AbstractSampler | Shifted

    def __post_init__(self) -> None:
        inner: AbstractDensity = self.density
        while isinstance(inner, Shifted):
            inner = inner.density
        if not isinstance(inner, AbstractSampler):
            raise ValueError(f"a density draws or weighs, never both: AsWeight takes none that weighs, got {inner}")

    def quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return u

    def pdf(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Of the draws, which are uniform."""
        return torch.ones_like(t)

    def weight(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.density.pdf(t)
