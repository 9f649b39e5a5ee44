"""ODE solvers from noise (t=1) to data (t=0), for bags of samples with one time grid per sample."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.path import expand_like
from mmflow.flow.shift import AbstractShift, shift_time

Groups = tuple[Float[Tensor, "_ _ _ _ _"], ...]
VelocityField = Callable[[Groups, Float[Tensor, " B"]], Groups]
Progress = Callable[[int], None]


def time_grid(shift: AbstractShift, z: Groups, num_steps: int) -> Float[Tensor, "B S"]:
    """num_steps + 1 times from 1 to 0 per sample: evenly spaced, then shifted once by the sample's size (eq 23).

    Raises:
        ValueError: if num_steps < 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    alphas = shift.alphas(z)
    even = torch.linspace(1, 0, num_steps + 1, dtype=torch.float32, device=alphas.device)
    return shift_time(even.expand(len(alphas), -1), alphas[:, None])


def step(z: Groups, v: Groups, dt: Float[Tensor, " B"]) -> Groups:
    """z + dt v, with each sample's own dt."""
    dts = dt.split([len(x) for x in z])
    return tuple(x + expand_like(d, x) * w for x, w, d in zip(z, v, dts, strict=True))


class AbstractSolver(ABC):
    """A fixed-step method. It sees only the velocity: guidance and prediction are wrapped around that."""

    @property
    @abstractmethod
    def evaluations_per_step(self) -> int:
        """Calls of the velocity for one step (the last may take fewer)."""

    @abstractmethod
    def advance(
        self, velocity: VelocityField, z: Groups, t: Float[Tensor, " B"], t_next: Float[Tensor, " B"]
    ) -> Groups:
        """z at t_next from z at t."""

    def __call__(
        self, velocity: VelocityField, z: Groups, times: Float[Tensor, "B S"], on_step: Progress | None = None
    ) -> Groups:
        """Integrates z along the columns of `times`.

        Args:
            velocity: dz/dt of a bag at one t per sample.
            z: start values at times[:, 0], one tensor `B_g C T H W` per shape, fp32.
            times: one grid per sample, in the order of the samples in `z`.
            on_step: called with the number of steps done.

        Returns:
            z at times[:, -1].
        """
        for i in range(times.shape[1] - 1):
            z = self.advance(velocity, z, times[:, i], times[:, i + 1])
            if on_step is not None:
                on_step(i + 1)
        return z


@final
@dataclass(frozen=True)
class Euler(AbstractSolver):
    """First order, one evaluation per step: z <- z + (t' - t) v(z, t)."""

    @property
    def evaluations_per_step(self) -> int:
        return 1

    def advance(
        self, velocity: VelocityField, z: Groups, t: Float[Tensor, " B"], t_next: Float[Tensor, " B"]
    ) -> Groups:
        return step(z, velocity(z, t), t_next - t)


@final
@dataclass(frozen=True)
class Heun(AbstractSolver):
    """Second order, two evaluations per step: the mean of the slopes at both ends (Karras et al. 2022, alg 1)."""

    @property
    def evaluations_per_step(self) -> int:
        return 2

    def advance(
        self, velocity: VelocityField, z: Groups, t: Float[Tensor, " B"], t_next: Float[Tensor, " B"]
    ) -> Groups:
        v = velocity(z, t)
        v_next = velocity(step(z, v, t_next - t), t_next)
        mean = tuple((a + b) / 2 for a, b in zip(v, v_next, strict=True))
        return step(z, mean, t_next - t)
