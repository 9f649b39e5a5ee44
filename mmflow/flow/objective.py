"""The training objective: one loss per sample, for pictures and clips of any shape at once."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.density import AbstractDensity, LogitNormal
from mmflow.flow.known import with_known
from mmflow.flow.path import AbstractPath, RectifiedFlow, expand_like
from mmflow.flow.prediction import AbstractPrediction, Velocity
from mmflow.flow.shift import AbstractShift, ConstantShift

Groups = tuple[Float[Tensor, "_ _ _ _ _"], ...]
Backbone = Callable[[Groups, Float[Tensor, " B"], Any], Groups]
"""(z: one tensor per shape, t per sample, conditioning) -> the network's output in the shapes of z."""


@dataclass(frozen=True)
class FlowObjective:
    """path x prediction x density x shift (sections 2, 3 and 5.3.2). The default is rf/lognorm(0.00,1.00).

    Attributes:
        path: how data and noise are mixed at t.
        prediction: what the network puts out.
        density: where t is drawn, or how a uniform t is weighed.
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
            conditioning: passed through to the network. Where it has `known` parts, these take the place of x0's, and
                only unknown positions count.
            u: one uniform per sample, in [0, 1).
            eps: noise in the shapes of x0.

        Returns:
            (loss, t), both of shape (B,) in the order of the samples in `x0`.
        """
        drawn = self.density.quantile(u.float())
        t = self._moved(drawn, x0)
        x0 = with_known(x0, conditioning)
        ts = t.split([len(x) for x in x0])
        z = tuple(self.path.mix(x, e, s) for x, e, s in zip(x0, eps, ts, strict=True))
        outputs = self._outputs(backbone, z, t, conditioning)
        targets = tuple(self.prediction.target(self.path, x, e, s) for x, e, s in zip(x0, eps, ts, strict=True))
        error = mean_squares(outputs, targets, conditioning, t)
        weight = self.prediction.weight(self.path, t)
        loss = self.density.weight(drawn) * weight * error
        self.density.observe(drawn, weight.square() * error)
        return loss, t

    def time(self, u: Float[Tensor, " B"], x0: Groups) -> Float[Tensor, " B"]:
        """t of each sample: the density's quantile at u, shifted by the sample's size (eq 23).

        Draws outside of the path's usable range go to its ends.
        """
        return self._moved(self.density.quantile(u.float()), x0)

    def _moved(self, drawn: Float[Tensor, " B"], x0: Groups) -> Float[Tensor, " B"]:
        return self.path.shifted(self.path.clamp(drawn), self.shift.alphas(x0))

    def _outputs(self, backbone: Backbone, z: Groups, t: Float[Tensor, " B"], conditioning: Any) -> Groups:
        scales = self.prediction.input_scale(self.path, t).split([len(x) for x in z])
        outputs = backbone(tuple(expand_like(c, x) * x for c, x in zip(scales, z, strict=True)), t, conditioning)
        return tuple(out.to(x.dtype) for out, x in zip(outputs, z, strict=True))

    # --- what all objectives have in common -------------------------------------------------------------------------

    @property
    def noise_shares(self) -> tuple[float, float]:
        """Lowest and highest share of the noise at which the network says what the velocity is."""
        low, high = self.path.noise_share(torch.tensor(self.path.usable, dtype=torch.float64)).tolist()
        return low, min(high, 1 / (1 + math.exp(self.prediction.min_log_snr / 2)))

    def start(self, noise: Groups) -> Groups:
        """Where sampling starts from N(0, 1): y at the highest usable share of the noise, for data of unit variance.

        A path that keeps some of the data at its end starts without that part, as is usual for those models.
        """
        share = self.noise_shares[1]
        return tuple(math.hypot(share, 1 - share) * eps for eps in noise)

    def velocity(self, backbone: Backbone) -> Backbone:
        """(y, s, conditioning) -> dy/ds = eps - x0: what a solver integrates, the same whatever path and prediction.

        y = z / (a + b) and s, the share of the noise, are the coordinates in which every path is straight: s goes from
        `noise_shares[1]` to 0, where y is the sample. On a rectified flow they are z and t. Euler's step in them is
        DDIM's on every path, and EDM's in sigma.
        """
        low, high = self.noise_shares

        def velocity(y: Groups, s: Float[Tensor, " B"], conditioning: Any) -> Groups:
            t = self.path.time(s.clamp(low, high))
            sizes = [len(x) for x in y]
            scales = (self.path.a(t) + self.path.b(t)).split(sizes)
            z = tuple(expand_like(c, x) * x for c, x in zip(scales, y, strict=True))
            outputs = self._outputs(backbone, z, t, conditioning)
            return tuple(
                self.path.straighten(self.prediction.velocity(self.path, out, x, r), x, r)
                for out, x, r in zip(outputs, z, t.split(sizes), strict=True)
            )

        return velocity

    def at(
        self, backbone: Backbone, x0: Groups, conditioning: Any, t: Float[Tensor, " B"], eps: Groups
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Validation loss at given levels: mean |v - (eps - x0)|^2 of `velocity` at shares t of the noise.

        It is the same question to every objective, whatever its path, prediction, density and weights: losses of
        different objectives compare, as those of training do not. Levels that a path does not reach go to its ends.
        Arguments and result as in `__call__`; the loss is summed up in float64.

        Raises:
            ValueError: if a level lies outside of [0, 1].
        """
        RectifiedFlow().check(t)
        x0 = with_known(x0, conditioning)
        low, high = self.noise_shares
        s = t.clamp(low, high)
        y = tuple(RectifiedFlow().mix(x, e, r) for x, e, r in zip(x0, eps, s.split([len(x) for x in x0]), strict=True))
        velocities = self.velocity(backbone)(y, s, conditioning)
        targets = tuple(e - x for x, e in zip(x0, eps, strict=True))
        return mean_squares(tuple(v.double() for v in velocities), targets, conditioning, t), t

    def epsilon_weight(self, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """w_t of the general loss -1/2 w_t lambda'_t |eps_theta - eps|^2 (section 2) that this objective has at t.

        The density's share is not in it; pi(t) multiplies it (eq 18).
        """
        ones, zeros = torch.ones_like(t), torch.zeros_like(t)
        slope = self.prediction.velocity(self.path, ones, zeros, t)  # of dz/dt in the output
        a, b, da, db = self.path.a(t), self.path.b(t), self.path.da(t), self.path.db(t)
        # At fixed z an error of eps is a / (a b' - a' b) times one of dz/dt (eq 11).
        output_per_eps = (a * db - da * b) / (a * slope)
        return -2 * self.prediction.weight(self.path, t) * output_per_eps.square() / self.path.log_snr_slope(t)


def mean_squares(outputs: Groups, targets: Groups, conditioning: Any, t: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Mean of (output - target)^2 per sample, over the positions that the conditioning does not give."""
    known = getattr(conditioning, "known", None) or (None,) * len(outputs)
    errors = [
        mean_square(out - target, None if k is None else k.mask)
        for out, target, k in zip(outputs, targets, known, strict=True)
    ]
    return torch.cat(errors) if errors else t.new_zeros(0)


def mean_square(error: Float[Tensor, "B C T H W"], mask: Float[Tensor, "B 1 T H W"] | None) -> Float[Tensor, " B"]:
    """Mean of error^2 per sample, over the positions where mask is 1 (all of them without a mask)."""
    if mask is None:
        return error.square().flatten(1).mean(1)
    total = (error.square() * mask).flatten(1).sum(1)
    return total / (mask.flatten(1).sum(1) * error.shape[1]).clamp(min=1)
