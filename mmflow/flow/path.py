"""Paths between data and noise: z_t = a_t x0 + b_t eps (eq 2).

Whatever the path, y = z / (a + b) and s = b / (a + b) make it straight: y = (1 - s) x0 + s eps. s, the share of the
noise, says no more and no less than the log-SNR, and is the time of a rectified flow. Solvers, the shift of eq 23 and
validation levels live in these coordinates, so that each of them means the same on every path.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.shift import shift_time


def expand_like(per_sample: Float[Tensor, " B"], x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
    """`per_sample` with as many trailing singleton axes as `x` has, so that the two broadcast."""
    return per_sample.reshape(-1, *(1,) * (x.ndim - 1))


class AbstractPath(ABC):
    """a_t and b_t with their derivatives; all of shape (B,) for t of shape (B,) in `usable`."""

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

    @abstractmethod
    def noise_share(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """s = b / (a + b) = sigmoid(-lambda_t / 2): the time of the rectified flow of the same log-SNR."""

    @abstractmethod
    def time(self, noise_share: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The inverse of `noise_share`; shares that the path does not reach give the nearest usable t."""

    @property
    @abstractmethod
    def usable(self) -> tuple[float, float]:
        """Smallest and largest t at which a, b and their derivatives are finite and mean something."""

    def check(self, t: Float[Tensor, " B"]) -> None:
        """Refuses times that the path does not have.

        Raises:
            ValueError: if a t lies outside of `usable`.
        """
        low, high = self.usable
        outside = (t < low) | (t > high) | t.isnan()
        if bool(outside.any()):
            first = int(outside.nonzero()[0])
            raise ValueError(
                f"t must lie in [{low:g}, {high:g}], the usable range of {self}; got {float(t[first]):g} for sample "
                f"{first}"
            )

    def clamp(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """t, or the nearest usable one."""
        return t.clamp(*self.usable)

    def log_snr(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """lambda_t = log(a_t^2 / b_t^2) (section 2)."""
        return 2 * (self.a(t).log() - self.b(t).log())

    def log_snr_slope(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """lambda'_t = 2 (a'/a - b'/b), below 0 (eq 10)."""
        return 2 * (self.da(t) / self.a(t) - self.db(t) / self.b(t))

    def mix(
        self, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """z_t = a_t x0 + b_t eps (eq 2), t unchecked: a check waits for the device."""
        return expand_like(self.a(t), x0) * x0 + expand_like(self.b(t), x0) * eps

    def interpolate(
        self, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """z_t = a_t x0 + b_t eps (eq 2).

        Raises:
            ValueError: if a t lies outside of `usable`.
        """
        self.check(t)
        return self.mix(x0, eps, t)

    def velocity(
        self, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """u_t = a'_t x0 + b'_t eps: eq 9 without its singularity at a_t = 0."""
        return expand_like(self.da(t), x0) * x0 + expand_like(self.db(t), x0) * eps

    def straighten(
        self, u: Float[Tensor, "B ..."], z_t: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """dy/ds = eps - x0 from dz/dt: ((a + b) u - (a' + b') z) / (a b' - a' b), from eqs 2 and 9."""
        a, b, da, db = self.a(t), self.b(t), self.da(t), self.db(t)
        area = a * db - da * b
        return expand_like((a + b) / area, u) * u - expand_like((da + db) / area, u) * z_t

    def shifted(self, t: Float[Tensor, " B"], alpha: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The t whose log-SNR is lower by 2 log(alpha): eq 23, which it is for a rectified flow."""
        return self.time(shift_time(self.noise_share(t), alpha))


@final
@dataclass(frozen=True)
class RectifiedFlow(AbstractPath):
    """Straight lines: z_t = (1 - t) x0 + t eps (eq 13)."""

    @property
    def usable(self) -> tuple[float, float]:
        return 0.0, 1.0

    def a(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return 1 - t

    def b(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return t

    def da(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return -torch.ones_like(t)

    def db(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.ones_like(t)

    def noise_share(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return t

    def time(self, noise_share: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return noise_share.clamp(0, 1)
