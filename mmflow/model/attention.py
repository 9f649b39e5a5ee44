"""Joint attention over the two streams: every sample attends to its own context and visual tokens, and to no
other's.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from mmflow.model.layout import Layout
from mmflow.model.ragged import permute_rows
from mmflow.model.ragged_attention import ragged_attention

Rows = Float[Tensor, "R K E"]
KeyRows = Float[Tensor, "S K E"]
ContextRows = Float[Tensor, "L K E"]
VisualRows = Float[Tensor, "N K E"]


class AbstractAttention(ABC):
    """softmax(q k^T / sqrt(E)) v within each sample of a joint sequence."""

    @abstractmethod
    def dense(
        self, q: Float[Tensor, "B S K E"], k: Float[Tensor, "B M K E"], v: Float[Tensor, "B M K E"]
    ) -> Float[Tensor, "B S K E"]:
        """Samples of one length."""

    @abstractmethod
    def ragged(
        self, q: Rows, k: KeyRows, v: KeyRows, lengths: Int[Tensor, " B"], key_lengths: Int[Tensor, " B"] | None = None
    ) -> Rows:
        """Samples of any length, one after the other; lengths (host) of queries, and of keys where those are others."""


@final
@dataclass(frozen=True)
class SdpaAttention(AbstractAttention):
    """torch's scaled_dot_product_attention for dense batches, one call per run of equal lengths otherwise."""

    def dense(
        self, q: Float[Tensor, "B S K E"], k: Float[Tensor, "B M K E"], v: Float[Tensor, "B M K E"]
    ) -> Float[Tensor, "B S K E"]:
        if q.device.type == "cpu" and q.dtype == torch.bfloat16:
            # Fused or explicit, by what the processor has: see `ragged_attention`.
            each, keys = (torch.full((x.shape[0],), x.shape[1]) for x in (q, k))
            return ragged_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), each, keys).view(q.shape)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    def ragged(
        self, q: Rows, k: KeyRows, v: KeyRows, lengths: Int[Tensor, " B"], key_lengths: Int[Tensor, " B"] | None = None
    ) -> Rows:
        return ragged_attention(q, k, v, lengths, key_lengths)


@final
@dataclass(frozen=True)
class XformersAttention(AbstractAttention):
    """xformers' memory_efficient_attention with a block-diagonal mask. CUDA only; extra `mmflow-mmdit[xformers]`."""

    def __post_init__(self) -> None:
        if not torch.cuda.is_available():
            raise ValueError(
                "attention: xformers needs a CUDA device and there is none (xformers has no CPU operator). "
                "Use attention: sdpa."
            )
        try:
            import xformers.ops  # noqa: F401
        except ImportError as error:
            raise ValueError("attention: xformers needs the extra: pip install 'mmflow-mmdit[xformers]'") from error

    def dense(
        self, q: Float[Tensor, "B S K E"], k: Float[Tensor, "B M K E"], v: Float[Tensor, "B M K E"]
    ) -> Float[Tensor, "B S K E"]:
        from xformers.ops import memory_efficient_attention

        out: Tensor = memory_efficient_attention(q, k, v)
        return out

    def ragged(
        self, q: Rows, k: KeyRows, v: KeyRows, lengths: Int[Tensor, " B"], key_lengths: Int[Tensor, " B"] | None = None
    ) -> Rows:
        from xformers.ops import memory_efficient_attention
        from xformers.ops.fmha.attn_bias import BlockDiagonalMask

        keys = lengths if key_lengths is None else key_lengths
        mask = BlockDiagonalMask.from_seqlens(*block_lengths(lengths, keys))
        out: Tensor = memory_efficient_attention(q[None], k[None], v[None], attn_bias=mask)[0]
        return out


def block_lengths(lengths: Int[Tensor, " B"], key_lengths: Int[Tensor, " B"]) -> tuple[list[int], list[int]]:
    """Queries and keys of each block of a block-diagonal mask; a sample with neither has none."""
    some = (lengths > 0) | (key_lengths > 0)
    return lengths[some].tolist(), key_lengths[some].tolist()


def make_attention(name: Literal["sdpa", "xformers"]) -> AbstractAttention:
    """The backend of that name.

    Raises:
        ValueError: if it cannot run here. There is no fallback: a run must not silently use another backend.
    """
    return {"sdpa": SdpaAttention, "xformers": XformersAttention}[name]()


def joint_attention(
    attention: AbstractAttention,
    context: tuple[ContextRows, ContextRows, ContextRows],
    visual: tuple[VisualRows, VisualRows, VisualRows],
    layout: Layout,
) -> tuple[ContextRows, VisualRows]:
    """Attention over [context, visual] of each sample; section 4 of the paper, Fig 2.

    Args:
        attention: the backend.
        context: q, k, v of the context stream, (L, K, E) each.
        visual: q, k, v of the visual stream, (N, K, E) each.
        layout: where the samples lie.

    Returns:
        The outputs of the context and of the visual stream.
    """
    num_context = len(context[0])
    if layout.dense:
        b = len(layout.visual)
        q, k, v = (
            torch.cat([c.view(b, -1, *c.shape[1:]), x.view(b, -1, *x.shape[1:])], 1)
            for c, x in zip(context, visual, strict=True)
        )
        out = attention.dense(q, k, v)
        split = num_context // b
        return out[:, :split].flatten(0, 1), out[:, split:].flatten(0, 1)
    q, k, v = (
        permute_rows(torch.cat([c, x]), layout.order, layout.inverse) for c, x in zip(context, visual, strict=True)
    )
    out = permute_rows(attention.ragged(q, k, v, layout.joint), layout.inverse, layout.order)
    return out[:num_context], out[num_context:]
