"""ODE solvers from noise to data, for bags of samples with one time grid per sample.

They see straight coordinates only (see `FlowObjective.velocity`): dy/dt = eps - x0, with y = (1 - t) x0 + t eps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.path import expand_like

Groups = tuple[Float[Tensor, "_ _ _ _ _"], ...]
VelocityField = Callable[[Groups, Float[Tensor, " B"]], Groups]
Progress = Callable[[int], None]


def step(z: Groups, v: Groups, dt: Float[Tensor, " B"]) -> Groups:
    """z + dt v, with each sample's own dt."""
    dts = dt.split([len(x) for x in z])
    return tuple(x + expand_like(d, x) * w for x, w, d in zip(z, v, dts, strict=True))


@dataclass(frozen=True)
class Past:
    """What the step before has left: where it was, and its estimate of the data."""

    t: Float[Tensor, " B"]
    x0: Groups


class AbstractSolver(ABC):
    """A fixed-step method. It sees only the velocity: guidance and prediction are wrapped around that.

    The last step of every method is Euler's, from its noise straight to the data. So nobody asks for the velocity of
    clean data, which some predictions do not determine, and the order stays what it is (Karras et al. 2022, alg 1).
    """

    @property
    @abstractmethod
    def evaluations_per_step(self) -> int:
        """Calls of the velocity for each step but the last, which takes one."""

    def evaluations(self, num_steps: int) -> int:
        """Calls of the velocity for one picture (NFE). Guidance doubles the network's work, not this number."""
        return self.evaluations_per_step * (num_steps - 1) + 1

    @abstractmethod
    def advance(
        self,
        velocity: VelocityField,
        z: Groups,
        t: Float[Tensor, " B"],
        t_next: Float[Tensor, " B"],
        past: Past | None,
    ) -> tuple[Groups, Past | None]:
        """z at t_next > 0 from z at t, and what the next step may want to know; `past` is that of the step before."""

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
        past: Past | None = None
        last = times.shape[1] - 2
        for i in range(last + 1):
            if i < last:
                z, past = self.advance(velocity, z, times[:, i], times[:, i + 1], past)
            else:
                z = step(z, velocity(z, times[:, i]), times[:, i + 1] - times[:, i])
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
        self,
        velocity: VelocityField,
        z: Groups,
        t: Float[Tensor, " B"],
        t_next: Float[Tensor, " B"],
        past: Past | None,
    ) -> tuple[Groups, Past | None]:
        return step(z, velocity(z, t), t_next - t), None


@final
@dataclass(frozen=True)
class Heun(AbstractSolver):
    """Second order, two evaluations per step: the mean of the slopes at both ends (Karras et al. 2022, alg 1)."""

    @property
    def evaluations_per_step(self) -> int:
        return 2

    def advance(
        self,
        velocity: VelocityField,
        z: Groups,
        t: Float[Tensor, " B"],
        t_next: Float[Tensor, " B"],
        past: Past | None,
    ) -> tuple[Groups, Past | None]:
        v = velocity(z, t)
        v_next = velocity(step(z, v, t_next - t), t_next)
        mean = tuple((a + b) / 2 for a, b in zip(v, v_next, strict=True))
        return step(z, mean, t_next - t), None


@final
@dataclass(frozen=True)
class Midpoint(AbstractSolver):
    """Second order, two evaluations per step: the slope half-way."""

    @property
    def evaluations_per_step(self) -> int:
        return 2

    def advance(
        self,
        velocity: VelocityField,
        z: Groups,
        t: Float[Tensor, " B"],
        t_next: Float[Tensor, " B"],
        past: Past | None,
    ) -> tuple[Groups, Past | None]:
        halfway = (t + t_next) / 2
        v = velocity(step(z, velocity(z, t), halfway - t), halfway)
        return step(z, v, t_next - t), None


@final
@dataclass(frozen=True)
class DpmSolver2M(AbstractSolver):
    """DPM-Solver++(2M): second order, one evaluation per step (Lu et al. 2022, arXiv 2211.01095, alg 2).

    It extrapolates the estimate of the data over the log-SNR from the step before. The first two steps are Euler's
    where sampling starts at pure noise, whose log-SNR is minus infinity.
    """

    @property
    def evaluations_per_step(self) -> int:
        return 1

    def advance(
        self,
        velocity: VelocityField,
        z: Groups,
        t: Float[Tensor, " B"],
        t_next: Float[Tensor, " B"],
        past: Past | None,
    ) -> tuple[Groups, Past | None]:
        x0 = step(z, velocity(z, t), -t)
        estimate = x0
        if past is not None:
            # D = x0 + h / (2 h_before) (x0 - x0_before), the h being differences of half the log-SNR.
            now, half = _half_log_snr(t), 0.5
            gain = half * (_half_log_snr(t_next) - now) / (now - _half_log_snr(past.t)).clamp(min=1e-6)
            gains = gain.split([len(x) for x in z])
            estimate = tuple(
                x + expand_like(g, x) * (x - before) for x, before, g in zip(x0, past.x0, gains, strict=True)
            )
        ratio = (t_next / t).split([len(x) for x in z])
        moved = tuple(
            expand_like(r, x) * x + expand_like(1 - r, x) * d for x, d, r in zip(z, estimate, ratio, strict=True)
        )
        return moved, Past(t, x0)


def _half_log_snr(t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    return torch.log1p(-t) - t.log()
