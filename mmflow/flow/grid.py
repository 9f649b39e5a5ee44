"""The times that a solver visits: shares of the noise from the start of sampling down to 0, the data."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.shift import AbstractShift, shift_time

SD3_SMALLEST = 1 / 1000
"""Smallest of the 1000 times of the released SD3 code, before its shift."""


class AbstractGrid(ABC):
    """How the steps are spread."""

    @abstractmethod
    def shares(
        self, alphas: Float[Tensor, " B"], num_steps: int, low: float, high: float
    ) -> Float[Tensor, "B num_steps"]:
        """Falling shares of the noise at which the steps begin, for shifts `alphas`, within [low, high]."""

    def __call__(
        self,
        shift: AbstractShift,
        z: tuple[Float[Tensor, "_ _ _ _ _"], ...],
        num_steps: int,
        noise_shares: tuple[float, float] = (0.0, 1.0),
    ) -> Float[Tensor, "B S"]:
        """num_steps + 1 falling times per sample, the last being 0.

        Args:
            shift: moves the times of each sample by its size.
            z: the bag.
            num_steps: of the solver.
            noise_shares: lowest and highest share that the objective can be asked at; see `FlowObjective.noise_shares`.

        Raises:
            ValueError: if num_steps < 1.
        """
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        low, high = noise_shares
        alphas = shift.alphas(z)
        starts = self.shares(alphas, num_steps, low, high).clamp(low, high)
        return torch.cat([starts, torch.zeros_like(starts[:, :1])], dim=1)


@final
@dataclass(frozen=True)
class Even(AbstractGrid):
    """Evenly spaced from the start of sampling to 0, then shifted once (eq 23)."""

    def shares(
        self, alphas: Float[Tensor, " B"], num_steps: int, low: float, high: float
    ) -> Float[Tensor, "B num_steps"]:
        # The start is where sampling starts, whatever the shift: only what lies below it moves.
        start = torch.full_like(alphas, high)
        before = shift_time(start, 1 / alphas)
        even = 1 - torch.arange(1, num_steps, dtype=alphas.dtype, device=alphas.device) / num_steps
        return torch.cat([start[:, None], shift_time(before[:, None] * even, alphas[:, None])], dim=1)


@final
@dataclass(frozen=True)
class ReleasedSd3(AbstractGrid):
    """The grid of the released SD3 code and of diffusers, which shifts twice.

    They spread the times between the shifted ends of 1000 steps and shift them again: with alpha = 3 the last time
    above 0 is 0.0089 instead of 0.0030. For samples as those programs make them.
    """

    def shares(
        self, alphas: Float[Tensor, " B"], num_steps: int, low: float, high: float
    ) -> Float[Tensor, "B num_steps"]:
        last = shift_time(torch.full_like(alphas, SD3_SMALLEST), alphas)
        even = torch.linspace(0, 1, num_steps, dtype=alphas.dtype, device=alphas.device)
        return shift_time(1 + (last[:, None] - 1) * even, alphas[:, None])


@final
@dataclass(frozen=True)
class Karras(AbstractGrid):
    """EDM's own: sigma ** (1 / rho) evenly spaced, sigma = s / (1 - s) (Karras et al. 2022, eq 5). It knows no shift.

    Attributes:
        rho: > 0; larger spends more of the steps at low noise.
        min_noise: sigma at which the last step begins.
        max_noise: sigma at which the first begins, if the path reaches it.
    """

    rho: float = 7.0
    min_noise: float = 0.002
    max_noise: float = 80.0

    def __post_init__(self) -> None:
        if self.rho <= 0 or not 0 < self.min_noise < self.max_noise:
            raise ValueError(
                f"need rho > 0 and 0 < min_noise < max_noise, got {self.rho}, {self.min_noise}, {self.max_noise}"
            )

    def shares(
        self, alphas: Float[Tensor, " B"], num_steps: int, low: float, high: float
    ) -> Float[Tensor, "B num_steps"]:
        ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64, device=alphas.device)
        top = min(self.max_noise, high / (1 - high)) if high < 1 else self.max_noise
        start, end = top ** (1 / self.rho), self.min_noise ** (1 / self.rho)
        sigma = (start + ramp * (end - start)) ** self.rho
        shares: Tensor = sigma / (1 + sigma)
        return shares.to(alphas.dtype).expand(len(alphas), -1)
