"""The diffusion paths that the paper compares with: cosine, LDM-linear, and EDM's variance exploding ones."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.path import AbstractPath

EDGE = 4.5
"""Standard deviations of log b that EDM's t covers: beyond, fp32 cannot tell t from 1. One draw in 150,000 is cut."""


@final
@dataclass(frozen=True)
class Cosine(AbstractPath):
    """z_t = cos(pi t / 2) x0 + sin(pi t / 2) eps (eq 17)."""

    @property
    def usable(self) -> tuple[float, float]:
        return 0.0, 1.0

    def a(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.sin(math.pi / 2 * (1 - t))  # the cosine, and exactly 0 at t = 1

    def b(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.sin(math.pi / 2 * t)

    def da(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return -math.pi / 2 * self.b(t)

    def db(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return math.pi / 2 * self.a(t)

    def noise_share(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.b(t) / (self.a(t) + self.b(t))

    def time(self, noise_share: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        s = noise_share.clamp(0, 1)
        return 2 / math.pi * torch.atan2(s, 1 - s)


@lru_cache(maxsize=16)
def _log_snr_table(start: float, end: float, steps: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """lambda of LDM's discrete steps: beta rises linearly in its root, alpha-bar is the product of 1 - beta."""
    roots = torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float64)
    log_signal = torch.log1p(-roots.square()).cumsum(0)
    return (log_signal - torch.log(-torch.expm1(log_signal))).to(device, dtype)


@final
@dataclass(frozen=True)
class LdmLinear(AbstractPath):
    """The latent diffusion models' schedule, variance preserving, its log-SNR interpolated linearly between steps.

    t=0 is the first of the discrete steps and t=1 the last. Neither is an end: some noise is left in the first
    (b = 0.03), some of the data in the last (a = 0.068, a terminal log-SNR of -5.36), so sampling starts at that
    level and not at pure noise.

    Attributes:
        beta_start: of the first step.
        beta_end: of the last step.
        steps: number of discrete steps, at least 2.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    steps: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.beta_start < self.beta_end < 1 or self.steps < 2:
            raise ValueError(
                f"need 0 < beta_start < beta_end < 1 and steps >= 2, got {self.beta_start}, {self.beta_end}, "
                f"{self.steps}"
            )

    @property
    def usable(self) -> tuple[float, float]:
        return 0.0, 1.0

    def _table(self, t: Tensor) -> Tensor:
        return _log_snr_table(self.beta_start, self.beta_end, self.steps, t.device, t.dtype)

    def _log_snr(self, t: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """lambda and its slope."""
        table, place = self._table(t), t * (self.steps - 1)
        step = place.floor().long().clamp(0, self.steps - 2)
        rise = table[step + 1] - table[step]
        return table[step] + (place - step) * rise, rise * (self.steps - 1)

    def a(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.sigmoid(self._log_snr(t)[0]).sqrt()

    def b(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.sigmoid(-self._log_snr(t)[0]).sqrt()

    def da(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.a(t) * self.b(t).square() * self._log_snr(t)[1] / 2

    def db(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return -self.b(t) * self.a(t).square() * self._log_snr(t)[1] / 2

    def noise_share(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.sigmoid(-self._log_snr(t)[0] / 2)

    def time(self, noise_share: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        rising = -self._table(noise_share)
        level = 2 * torch.logit(noise_share.clamp(1e-6, 1 - 1e-6))
        step = (torch.searchsorted(rising, level.contiguous()) - 1).clamp(0, self.steps - 2)
        place = step + (level - rising[step]) / (rising[step + 1] - rising[step])
        return (place / (self.steps - 1)).clamp(0, 1)


@final
@dataclass(frozen=True)
class Edm(AbstractPath):
    """z_t = x0 + b_t eps with b_t = exp(mean + std * normal quantile(t)) (eqs 14, 15): log b ~ N(mean, std^2).

    Attributes:
        mean: P_m of log b.
        std: P_s of log b, a standard deviation, > 0.
        min_noise: smallest b, where sampling ends.
        max_noise: largest b, where sampling starts, if the density reaches it: b stays within 4.5 std of its mean.
    """

    mean: float = -1.2
    std: float = 1.2
    min_noise: float = 0.002
    max_noise: float = 80.0

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"P_s, the std of EDM's log noise, must be positive, got {self.std}")
        _check_noise(self.min_noise, self.max_noise)
        if not self.usable[0] < self.usable[1]:
            raise ValueError(
                f"edm({self.mean}, {self.std}) has no noise level between {self.min_noise} and {self.max_noise}"
            )

    @cached_property
    def usable(self) -> tuple[float, float]:
        low, high = ((math.log(b) - self.mean) / self.std for b in (self.min_noise, self.max_noise))
        ends = torch.tensor([max(low, -EDGE), min(high, EDGE)], dtype=torch.float64)
        start, end = torch.special.ndtr(ends).tolist()
        return float(start), float(end)

    def _deviation(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        deviation: Tensor = torch.special.ndtri(t)
        return deviation

    def a(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.ones_like(t)

    def b(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.exp(self.mean + self.std * self._deviation(t))

    def da(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.zeros_like(t)

    def db(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        pdf = torch.exp(-self._deviation(t).square() / 2) / math.sqrt(2 * math.pi)
        return self.std * self.b(t) / pdf

    def noise_share(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.sigmoid(self.mean + self.std * self._deviation(t))

    def time(self, noise_share: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.clamp(torch.special.ndtr((torch.logit(noise_share) - self.mean) / self.std))


@final
@dataclass(frozen=True)
class Exploding(AbstractPath):
    """z_t = x0 + b_t eps with the log-SNR of another path: b_t is that path's b / a (edm/rf and edm/cos).

    The paper gives no formula for the two; this is the reading under which they differ from rf and v/cos.

    Attributes:
        of: the path whose log-SNR it has.
        min_noise: smallest b, where sampling ends.
        max_noise: largest b, where sampling starts.
    """

    of: AbstractPath
    min_noise: float = 0.002
    max_noise: float = 80.0

    def __post_init__(self) -> None:
        _check_noise(self.min_noise, self.max_noise)

    @cached_property
    def usable(self) -> tuple[float, float]:
        shares = torch.tensor([b / (1 + b) for b in (self.min_noise, self.max_noise)], dtype=torch.float64)
        start, end = self.of.time(shares).tolist()
        return start, end

    def a(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.ones_like(t)

    def b(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.of.b(t) / self.of.a(t)

    def da(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.zeros_like(t)

    def db(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        a, b = self.of.a(t), self.of.b(t)
        return (a * self.of.db(t) - b * self.of.da(t)) / a.square()

    def noise_share(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.of.noise_share(t)

    def time(self, noise_share: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.clamp(self.of.time(noise_share))


def _check_noise(least: float, most: float) -> None:
    if not 0 < least < most:
        raise ValueError(f"need 0 < min_noise < max_noise, got {least} and {most}")
