"""One MM-DiT block: two streams with their own weights that meet in attention (paper section 4, Fig 2)."""

from functools import partial
from typing import final

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from mmflow.model.activation import ActivationName
from mmflow.model.attention import AbstractAttention, joint_attention
from mmflow.model.clips import ClipAttention, Clips
from mmflow.model.fused import activated_linear
from mmflow.model.heads import HEAD_WIDTH, HeadNorm, Rotation, SelfAttention, seen, turned
from mmflow.model.layout import Layout
from mmflow.model.segments import Segments, normalise

Rows = Float[Tensor, "R D"]


@final
class Stream(nn.Module):
    """The weights of one modality in one block.

    Args:
        width: D.
        qk_norm: RMSNorm on queries and keys per head.
        mlp_ratio: hidden width of the MLP over D.
        last: pre-only: the stream is read by attention a last time and its output is dropped, so that it has neither
            output projection nor MLP.
        dual: a second attention of the stream's own tokens beside the joint one (MMDiT-X).
        activation: of the MLP.
    """

    def __init__(
        self,
        width: int,
        *,
        qk_norm: bool,
        mlp_ratio: float,
        last: bool = False,
        dual: bool = False,
        activation: ActivationName = "gelu_tanh",
        head_width: int = HEAD_WIDTH,
    ) -> None:
        super().__init__()
        assert not (last and dual), "a stream whose output is dropped needs no second attention"
        self.num_heads, self.last, self.activation = width // head_width, last, activation
        self.num_modulations = 2 if last else 9 if dual else 6
        self.modulation = nn.Linear(width, self.num_modulations * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q = HeadNorm(head_width) if qk_norm else nn.Identity()
        self.norm_k = HeadNorm(head_width) if qk_norm else nn.Identity()
        if not last:
            self.proj = nn.Linear(width, width)
            hidden = round(mlp_ratio * width)
            # The place between is kept for the activation, which has no weights: the second linear's name is `mlp.2`.
            self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.Identity(), nn.Linear(hidden, width))
        self.own = SelfAttention(width, qk_norm=qk_norm, head_width=head_width) if dual else None

    def modulations(self, y: Float[Tensor, "B D"]) -> tuple[Tensor, ...]:
        """(shift1, scale1, gate1, shift2, scale2, gate2), each (B, D).

        A last stream has (shift1, scale1) only; a dual one has (shift, scale, gate) of its own attention after the six.
        """
        vectors: Tensor = self.modulation(F.silu(y))
        return vectors.chunk(self.num_modulations, dim=1)

    def queries_keys_values(self, x: Rows, rotation: Rotation | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of shape (R, K, E) from modulated tokens; q and k normalised per head, then all turned."""
        q, k, v = self.qkv(x).view(len(x), 3, self.num_heads, x.shape[1] // self.num_heads).unbind(1)
        return turned(self.norm_q(q), self.norm_k(k), v, rotation)

    def add_attention(
        self, x: Rows, attended: Float[Tensor, "R K E"], segments: Segments, mods: tuple[Tensor, ...]
    ) -> Rows:
        """x + gate1 proj(attention)."""
        return segments.gated_add(x, self.proj(attended.flatten(1)), mods[2])

    def add_own(
        self,
        x: Rows,
        normed: Rows,
        segments: Segments,
        mods: tuple[Tensor, ...],
        attention: AbstractAttention,
        rotation: Rotation | None,
    ) -> Rows:
        """x + gate own attention, which reads the same normalised tokens as the joint one, with its own modulation."""
        if self.own is None:
            return x
        shift, scale, gate = mods[6:]
        own = self.own(segments.affine(normed, shift, scale), segments, attention, rotation)
        return segments.gated_add(x, own, gate)

    def add_mlp(self, x: Rows, segments: Segments, mods: tuple[Tensor, ...]) -> Rows:
        """x + gate2 MLP(modulated x)."""
        shift2, scale2, gate2 = mods[3:6]
        first, _, second = self.mlp
        hidden = first(segments.modulate(x, shift2, scale2))
        assert isinstance(second, nn.Linear)
        mixed = activated_linear(hidden, second.weight, second.bias, self.activation)
        return segments.gated_add(x, mixed, gate2)


@final
class MMDiTBlock(nn.Module):
    """Context and visual stream with separate weights and one joint attention.

    Args:
        width: D.
        qk_norm: RMSNorm on queries and keys per head.
        mlp_ratio: hidden width of the MLPs over D.
        last: the context stream is read a last time.
        dual: the visual stream has an attention of its own as well (MMDiT-X).
        over_time: clips go through the block frame group by frame group, and then attend over all of them.
        activation: of the MLPs.
    """

    over_time: ClipAttention | None

    def __init__(
        self,
        width: int,
        *,
        qk_norm: bool,
        mlp_ratio: float,
        last: bool = False,
        dual: bool = False,
        over_time: bool = False,
        activation: ActivationName = "gelu_tanh",
        head_width: int = HEAD_WIDTH,
    ) -> None:
        super().__init__()
        self.over_time = ClipAttention(width, qk_norm=qk_norm, head_width=head_width) if over_time else None
        stream = partial(
            Stream, width, qk_norm=qk_norm, mlp_ratio=mlp_ratio, activation=activation, head_width=head_width
        )
        self.context, self.visual = stream(last=last), stream(dual=dual)

    def forward(
        self,
        visual: Float[Tensor, "N D"],
        context: Float[Tensor, "L D"],
        y: Float[Tensor, "B D"],
        layout: Layout,
        attention: AbstractAttention,
        rotation: Rotation | None = None,
        clips: Clips | None = None,
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, "L D"]]:
        """Both streams after the block.

        Args:
            visual: rows of the visual stream.
            context: rows of the context stream.
            y: conditioning vector of each sample of `layout`.
            layout: where the samples lie.
            attention: the backend.
            rotation: of the visual tokens' queries, keys and, by design, values.
            clips: which rows attend over time, where the block has such an attention.
        """
        visual_rows = Segments(layout.visual, layout.dense)
        context_rows = Segments(layout.context, layout.dense)
        visual_mods, context_mods = self.visual.modulations(y), self.context.modulations(y)
        normed = normalise(visual)
        context_out, visual_out = joint_attention(
            attention,
            self.context.queries_keys_values(context_rows.modulate(context, *context_mods[:2])),
            self.visual.queries_keys_values(visual_rows.affine(normed, *visual_mods[:2]), rotation),
            layout,
        )
        visual = self.visual.add_attention(visual, seen(visual_out, rotation), visual_rows, visual_mods)
        visual = self.visual.add_own(visual, normed, visual_rows, visual_mods, attention, rotation)
        if self.over_time is not None:
            # In the block, not behind the last one: a sharded block's weights are there only while it runs.
            visual = self.over_time.idle(visual) if clips is None else self.over_time(visual, y, clips, attention)
        visual = self.visual.add_mlp(visual, visual_rows, visual_mods)
        if not self.context.last:
            context = self.context.add_attention(context, context_out, context_rows, context_mods)
            context = self.context.add_mlp(context, context_rows, context_mods)
        return visual, context
