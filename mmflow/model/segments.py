"""Samples within a packed stream: what is done per sample, without a row per token and without padding."""

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from mmflow.model.attention import AbstractAttention
from mmflow.model.ragged import affine_rows, gate_rows

NORM_EPS = 1e-6

Rows = Float[Tensor, "R D"]


@dataclass(frozen=True)
class Segments:
    """Which rows of a packed stream belong to which sample."""

    lengths: Int[Tensor, " B"]
    dense: bool

    def modulate(self, x: Rows, shift: Float[Tensor, "B D"], scale: Float[Tensor, "B D"]) -> Rows:
        """LayerNorm without affine, then x (1 + scale) + shift per sample."""
        return self.affine(normalise(x), shift, scale)

    def affine(self, x: Rows, shift: Float[Tensor, "B D"], scale: Float[Tensor, "B D"]) -> Rows:
        """x (1 + scale) + shift per sample."""
        shift, scale = shift.to(x.dtype), scale.to(x.dtype)
        if self.dense:
            b = len(self.lengths)
            return (x.view(b, -1, x.shape[-1]) * (1 + scale[:, None]) + shift[:, None]).view_as(x)
        out: Tensor = affine_rows(x, shift, scale, self.lengths)
        return out

    def gated_add(self, x: Rows, y: Rows, gate: Float[Tensor, "B D"]) -> Rows:
        """x + gate y per sample."""
        y, gate = y.to(x.dtype), gate.to(x.dtype)
        if self.dense:
            b, d = len(self.lengths), x.shape[-1]
            return (x.view(b, -1, d) + gate[:, None] * y.view(b, -1, d)).view_as(x)
        out: Tensor = gate_rows(x, y.contiguous(), gate, self.lengths)
        return out

    def attend(
        self,
        attention: AbstractAttention,
        q: Float[Tensor, "R K E"],
        k: Tensor,
        v: Tensor,
        keys: "Segments | None" = None,
    ) -> Float[Tensor, "R K E"]:
        """Attention within each sample over the rows of this stream, or of another one, whose segments are `keys`."""
        other = self if keys is None else keys
        if self.dense and other.dense:
            b = len(self.lengths)
            return attention.dense(*(x.view(b, -1, *x.shape[1:]) for x in (q, k, v))).flatten(0, 1)
        return attention.ragged(q, k, v, self.lengths, other.lengths)

    @staticmethod
    def of(lengths: Int[Tensor, " B"]) -> "Segments":
        """Of samples of these lengths (host)."""
        return Segments(lengths, len(lengths) > 0 and bool((lengths == lengths[0]).all()))


def normalise(x: Rows) -> Rows:
    """LayerNorm without affine."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)
