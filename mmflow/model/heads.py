"""Attention heads: their width, norm and rotation, and attention of one stream to itself or to another."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmflow.model.attention import AbstractAttention
from mmflow.model.fused import head_norm
from mmflow.model.segments import NORM_EPS, Segments

HEAD_WIDTH = 64

Rows = Float[Tensor, "R D"]


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine of each row's rotary angles.

    Attributes:
        cos: of each row's angles.
        sin: of each row's angles.
        values: the first half of the heads also gathers values as seen from the token that asks.
    """

    cos: Float[Tensor, "R 1 _"]
    sin: Float[Tensor, "R 1 _"]
    values: bool = False

    def __call__(self, x: Float[Tensor, "R K E"]) -> Float[Tensor, "R K E"]:
        """Every pair (x_i, x_(i + E/2)) turned by its angle: q . k then depends on the difference of two places."""
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def placed(self, v: Float[Tensor, "R K E"]) -> Float[Tensor, "R K E"]:
        """Values as attention sums them up: those of the first half of the heads turned by their own place."""
        if not self.values:
            return v
        half = v.shape[1] // 2
        return torch.cat([self(v[:, :half]), v[:, half:]], 1)

    def seen(self, out: Float[Tensor, "R K E"]) -> Float[Tensor, "R K E"]:
        """Sums of `placed` values turned back by the place of the token that asked.

        What a token gets from another then depends on where that one lies *from it* (GTA, Miyato et al. 2024,
        arXiv 2310.10375). Text has no place; what a head reads from it stays as it is in the other half of the heads.
        """
        return Rotation(self.cos, -self.sin, self.values).placed(out)


def turned(q: Tensor, k: Tensor, v: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values after their rotation, if there is one."""
    return (q, k, v) if rotation is None else (rotation(q), rotation(k), rotation.placed(v))


def seen(out: Tensor, rotation: Rotation | None) -> Tensor:
    """What attention gathered, as seen from each token."""
    return out if rotation is None else rotation.seen(out)


class HeadNorm(nn.Module):
    """RMSNorm over the width of a head with a learnable scale: keeps attention logits bounded (section 5.3.2)."""

    def __init__(self, head_width: int = HEAD_WIDTH) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(head_width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones at the paper's head width; narrower heads start larger, or their logits could tell little apart."""
        nn.init.constant_(self.weight, (HEAD_WIDTH / len(self.weight)) ** 0.5)

    def forward(self, x: Float[Tensor, "R K E"]) -> Float[Tensor, "R K E"]:
        return head_norm(x, self.weight, NORM_EPS)


class SelfAttention(nn.Module):
    """Attention of a stream's tokens among themselves, within each sample."""

    def __init__(self, width: int, *, qk_norm: bool, head_width: int = HEAD_WIDTH) -> None:
        super().__init__()
        self.num_heads = width // head_width
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = HeadNorm(head_width) if qk_norm else nn.Identity()
        self.norm_k = HeadNorm(head_width) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Rows, segments: Segments, attention: AbstractAttention, rotation: Rotation | None = None
    ) -> Rows:
        """Projected outputs of modulated tokens."""
        q, k, v = self.qkv(x).view(len(x), 3, self.num_heads, x.shape[1] // self.num_heads).unbind(1)
        q, k, v = turned(self.norm_q(q), self.norm_k(k), v, rotation)
        out: Tensor = self.proj(seen(segments.attend(attention, q, k, v), rotation).flatten(1))
        return out


class CrossAttention(nn.Module):
    """Picture tokens ask, text tokens answer, within each sample: no modulation, and an output that starts at zero."""

    def __init__(self, width: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = width // HEAD_WIDTH
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.norm_q = HeadNorm() if qk_norm else nn.Identity()
        self.norm_k = HeadNorm() if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Rows, context: Float[Tensor, "L D"], segments: Segments, words: Segments, attention: AbstractAttention
    ) -> Rows:
        """What the text says to each picture token.

        Args:
            x: picture tokens.
            context: text tokens.
            segments: which of `x` belong to which sample.
            words: which of `context` belong to which sample.
            attention: the backend.
        """
        q = self.norm_q(self.q(x).view(len(x), self.num_heads, HEAD_WIDTH))
        k, v = self.kv(context).view(len(context), 2, self.num_heads, HEAD_WIDTH).unbind(1)
        out: Tensor = self.proj(segments.attend(attention, q, self.norm_k(k), v, words).flatten(1))
        return out
