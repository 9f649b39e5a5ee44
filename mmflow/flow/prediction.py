"""What the network predicts, what its error weighs, and the way back to a velocity for the solver."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.path import AbstractPath, expand_like


class AbstractPrediction(ABC):
    """One parameterisation of the field. The loss is weight(t) * mean |output - target|^2."""

    @abstractmethod
    def target(
        self, path: AbstractPath, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """What the network should put out."""

    @abstractmethod
    def weight(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Weight of the squared error at t, before that of the timestep density."""

    @abstractmethod
    def velocity(
        self, path: AbstractPath, output: Float[Tensor, "B ..."], z_t: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """dz/dt as the network's output implies it, linear in output and z_t."""

    def input_scale(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """What z_t is multiplied by on its way into the network."""
        return torch.ones_like(t)

    @property
    def min_log_snr(self) -> float:
        """The lowest log-SNR at which an output still says what the velocity is: sampling starts no lower."""
        return -math.inf


@final
@dataclass(frozen=True)
class Velocity(AbstractPrediction):
    """The network puts out dz/dt itself; for a rectified flow eps - x0 (eq 13).

    Plain conditional flow matching (eq 8).
    """

    def target(
        self, path: AbstractPath, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        return path.velocity(x0, eps, t)

    def weight(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.ones_like(t)

    def velocity(
        self, path: AbstractPath, output: Float[Tensor, "B ..."], z_t: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        return output


@final
@dataclass(frozen=True)
class Data(AbstractPrediction):
    """The network puts out x0 and its error is weighed as a velocity error, so the optimum is that of `Velocity`.

    From z_t = a x0 + b eps follows u = (a' - a b'/b) x0 + (b'/b) z_t; the factor of x0 is -1/t for a rectified flow.
    Where
    patches hold more numbers than the model is wide, clean pixels are the easier thing to put out (arXiv 2511.13720).

    Attributes:
        min_t: b_t is taken no smaller than at this t, which bounds the weight at the clean end. In (0, 1).
    """

    min_t: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.min_t < 1:
            raise ValueError(f"min_t must lie in (0, 1), got {self.min_t}")

    def _factor(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        t = t.clamp(min=self.min_t)
        return path.da(t) - path.a(t) * path.db(t) / path.b(t)

    def target(
        self, path: AbstractPath, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        return x0

    def weight(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self._factor(path, t).square()

    def velocity(
        self, path: AbstractPath, output: Float[Tensor, "B ..."], z_t: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        clamped = t.clamp(min=self.min_t)
        ratio = path.db(clamped) / path.b(clamped)
        return expand_like(self._factor(path, t), z_t) * output + expand_like(ratio, z_t) * z_t
