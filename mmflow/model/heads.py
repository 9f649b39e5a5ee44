"""Attention heads: their width, norm and rotation, and attention of one stream among its own tokens."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from mmflow.model.attention import AbstractAttention
from mmflow.model.segments import NORM_EPS, Segments

HEAD_WIDTH = 64

Rows = Float[Tensor, "R D"]


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine of each row's rotary angles."""

    cos: Float[Tensor, "R 1 _"]
    sin: Float[Tensor, "R 1 _"]

    def __call__(self, x: Float[Tensor, "R K E"]) -> Float[Tensor, "R K E"]:
        """Every pair (x_i, x_(i + E/2)) turned by its angle: q . k then depends on the difference of two places."""
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def turned(q: Tensor, k: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
    """Queries and keys after their rotation, if there is one."""
    return (q, k) if rotation is None else (rotation(q), rotation(k))


class HeadNorm(nn.Module):
    """RMSNorm over the width of a head with a learnable scale: keeps attention logits bounded (section 5.3.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HEAD_WIDTH))

    def forward(self, x: Float[Tensor, "R K E"]) -> Float[Tensor, "R K E"]:
        # The weight is cast on purpose: an fp32 weight on a bf16 input leaves torch's fused path.
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), NORM_EPS)


class SelfAttention(nn.Module):
    """Attention of a stream's tokens among themselves, within each sample."""

    def __init__(self, width: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = width // HEAD_WIDTH
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = HeadNorm() if qk_norm else nn.Identity()
        self.norm_k = HeadNorm() if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Rows, segments: Segments, attention: AbstractAttention, rotation: Rotation | None = None
    ) -> Rows:
        """Projected outputs of modulated tokens."""
        q, k, v = self.qkv(x).view(len(x), 3, self.num_heads, HEAD_WIDTH).unbind(1)
        q, k = turned(self.norm_q(q), self.norm_k(k), rotation)
        out: Tensor = self.proj(segments.attend(attention, q, k, v).flatten(1))
        return out
