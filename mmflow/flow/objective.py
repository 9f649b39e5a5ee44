"""The training objective: one loss per sample, for pictures and clips of any shape at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.density import AbstractDensity, LogitNormal
from mmflow.flow.path import AbstractPath, RectifiedFlow
from mmflow.flow.prediction import AbstractPrediction, Velocity
from mmflow.flow.shift import AbstractShift, ConstantShift, shift_time

Groups = tuple[Float[Tensor, "_ _ _ _ _"], ...]
Backbone = Callable[[Groups, Float[Tensor, " B"], Any], Groups]
"""(z: one tensor per shape, t per sample, conditioning) -> the network's output in the shapes of z."""


@dataclass(frozen=True)
class FlowObjective:
    """path x prediction x density x shift (sections 2, 3 and 5.3.2). The default is rf/lognorm(0.00,1.00).

    Attributes:
        path: how data and noise are mixed at t.
        prediction: what the network puts out.
        density: where t is drawn.
        shift: how a sample's size moves its t.
    """

    path: AbstractPath = field(default_factory=RectifiedFlow)
    prediction: AbstractPrediction = field(default_factory=Velocity)
    density: AbstractDensity = field(default_factory=LogitNormal)
    shift: AbstractShift = field(default_factory=ConstantShift)

    def __call__(
        self, backbone: Backbone, x0: Groups, conditioning: Any, u: Float[Tensor, " B"], eps: Groups
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """E_t,eps[w(t) |output - target|^2] (eq 8), unreduced over the samples.

        Args:
            backbone: the network.
            x0: clean latents, one tensor `B_g C T H W` per shape.
            conditioning: passed through to the network. Where it has `known` parts, only unknown positions count.
            u: one uniform per sample, in [0, 1).
            eps: noise in the shapes of x0.

        Returns:
            (loss, t), both of shape (B,) in the order of the samples in `x0`.
        """
        return self.at(backbone, x0, conditioning, self.time(u, x0), eps)

    def time(self, u: Float[Tensor, " B"], x0: Groups) -> Float[Tensor, " B"]:
        """t of each sample: the density's quantile at u, shifted by the sample's size (eq 23)."""
        return shift_time(self.density.quantile(u.float()), self.shift.alphas(x0))

    def at(
        self, backbone: Backbone, x0: Groups, conditioning: Any, t: Float[Tensor, " B"], eps: Groups
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """The loss at given t, as validation over fixed levels needs it. Arguments and result as in `__call__`."""
        ts = t.split([len(x) for x in x0])
        z = tuple(self.path.interpolate(x, e, s) for x, e, s in zip(x0, eps, ts, strict=True))
        outputs = backbone(z, t, conditioning)
        known = getattr(conditioning, "known", None) or (None,) * len(x0)
        losses = [
            self.prediction.weight(self.path, s)
            * mean_square(out.float() - self.prediction.target(self.path, x, e, s), None if k is None else k.mask)
            for out, x, e, s, k in zip(outputs, x0, eps, ts, known, strict=True)
        ]
        return torch.cat(losses) if losses else t.new_zeros(0), t

    def velocity(self, backbone: Backbone) -> Backbone:
        """dz/dt as `backbone` sees it, whatever it predicts: what a solver integrates."""

        def velocity(z: Groups, t: Float[Tensor, " B"], conditioning: Any) -> Groups:
            ts = t.split([len(x) for x in z])
            outputs = backbone(z, t, conditioning)
            return tuple(
                self.prediction.velocity(self.path, out.float(), x, s) for out, x, s in zip(outputs, z, ts, strict=True)
            )

        return velocity


def mean_square(error: Float[Tensor, "B C T H W"], mask: Float[Tensor, "B 1 T H W"] | None) -> Float[Tensor, " B"]:
    """Mean of error^2 per sample, over the positions where mask is 1 (all of them without a mask)."""
    if mask is None:
        return error.square().flatten(1).mean(1)
    total = (error.square() * mask).flatten(1).sum(1)
    return total / (mask.flatten(1).sum(1) * error.shape[1]).clamp(min=1)
