"""A prediction under the loss of another: what the network puts out and what its error weighs are two choices."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.path import AbstractPath
from mmflow.flow.prediction import AbstractPrediction


@final
@dataclass(frozen=True)
class AsVelocity(AbstractPrediction):
    """The network puts out what `of` says, and its error weighs as the error of dz/dt that it implies.

    The optimum is `Velocity`'s at every t; only what the network must put out to reach it differs. Around `EdmF` on a
    rectified flow, with data narrower than the noise, the output is x0 at large t and turns to the noise as t falls:
    the network never has to copy its input, which at small t is most of what `Data` asks of it.

    Attributes:
        of: what the network puts out.
    """

    of: AbstractPrediction

    def target(
        self, path: AbstractPath, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        return self.of.target(path, x0, eps, t)

    def weight(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The square of d(dz/dt) / d(output) at fixed z, as dz/dt is linear in the output."""
        return self.of.velocity(path, torch.ones_like(t), torch.zeros_like(t), t).square()

    def velocity(
        self, path: AbstractPath, output: Float[Tensor, "B ..."], z_t: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        return self.of.velocity(path, output, z_t, t)

    def input_scale(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return self.of.input_scale(path, t)

    @property
    def min_log_snr(self) -> float:
        return self.of.min_log_snr
