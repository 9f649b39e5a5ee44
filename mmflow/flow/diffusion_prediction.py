"""What diffusion models predict: the noise, v, and EDM's F. Each is defined on every path."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.path import AbstractPath, expand_like
from mmflow.flow.prediction import AbstractPrediction

DDPM_TERMINAL_LOG_SNR = -10.0
"""Where DDPM's own schedule ends (a = 0.0067). Below, x0 = (z - b eps) / a is the error of eps and nothing else."""


@final
@dataclass(frozen=True)
class Epsilon(AbstractPrediction):
    """The network puts out the noise; plain squared error (eps/linear, eps/cos).

    In the weighted form of section 2 that is w = -2 / lambda'.
    """

    def target(
        self, path: AbstractPath, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        return eps

    def weight(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.ones_like(t)

    def velocity(
        self, path: AbstractPath, output: Float[Tensor, "B ..."], z_t: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """(a'/a) z + (b' - a' b / a) eps (eq 10)."""
        ratio = path.da(t) / path.a(t)
        return expand_like(ratio, z_t) * z_t + expand_like(path.db(t) - ratio * path.b(t), z_t) * output

    @property
    def min_log_snr(self) -> float:
        return DDPM_TERMINAL_LOG_SNR


@final
@dataclass(frozen=True)
class V(AbstractPrediction):
    """The network puts out v = (a eps - b x0) / sqrt(a^2 + b^2) (v/linear, v/cos); on the cosine dz/dt = pi/2 v."""

    def target(
        self, path: AbstractPath, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        a, b = path.a(t), path.b(t)
        norm = torch.hypot(a, b)
        return expand_like(a / norm, eps) * eps - expand_like(b / norm, x0) * x0

    def weight(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.ones_like(t)

    def velocity(
        self, path: AbstractPath, output: Float[Tensor, "B ..."], z_t: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """From x0 = (a z - b r v) / r^2 and eps = (b z + a r v) / r^2, r^2 = a^2 + b^2."""
        a, b = path.a(t), path.b(t)
        norm = torch.hypot(a, b)
        x0 = expand_like(a / norm.square(), z_t) * z_t - expand_like(b / norm, z_t) * output
        eps = expand_like(b / norm.square(), z_t) * z_t + expand_like(a / norm, z_t) * output
        return path.velocity(x0, eps, t)


@final
@dataclass(frozen=True)
class EdmF(AbstractPrediction):
    """EDM's F (Karras et al. 2022): D = c_skip z + c_out F(c_in z), with unit weight on F.

    With sigma = b / a and k^2 = b^2 + a^2 sigma_data^2: c_skip z = a sigma_data^2 z / k^2, c_out = b sigma_data / k,
    c_in = 1 / k, which are EDM's own at a = 1 and finite wherever the path is. As a weighted noise loss that is
    proportional to e^-lambda + sigma_data^2 (eq 16).

    Attributes:
        sigma_data: standard deviation that the data is taken to have, > 0; 0.5 is EDM's for pixels.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if self.sigma_data <= 0:
            raise ValueError(f"sigma_data must be positive, got {self.sigma_data}")

    def _norm(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.hypot(path.b(t), path.a(t) * self.sigma_data)

    def input_scale(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return 1 / self._norm(path, t)

    def target(
        self, path: AbstractPath, x0: Float[Tensor, "B ..."], eps: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """F = (x0 - c_skip z) / c_out = (b x0 - a sigma_data^2 eps) / (k sigma_data)."""
        scale = self._norm(path, t) * self.sigma_data
        noise = path.a(t) * self.sigma_data**2
        return expand_like(path.b(t) / scale, x0) * x0 - expand_like(noise / scale, eps) * eps

    def weight(self, path: AbstractPath, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        return torch.ones_like(t)

    def velocity(
        self, path: AbstractPath, output: Float[Tensor, "B ..."], z_t: Float[Tensor, "B ..."], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B ..."]:
        """From x0 = D and eps = (z - a D) / b = b z / k^2 - a sigma_data F / k."""
        a, b, k = path.a(t), path.b(t), self._norm(path, t)
        skip = a * self.sigma_data**2 / k.square()
        x0 = expand_like(skip, z_t) * z_t + expand_like(b * self.sigma_data / k, z_t) * output
        eps = expand_like(b / k.square(), z_t) * z_t - expand_like(a * self.sigma_data / k, z_t) * output
        return path.velocity(x0, eps, t)
