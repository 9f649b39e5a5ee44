"""MM-DiT with three weight sets: pictures, CLIP's tokens and T5's (paper section 5.2.3)."""

from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmflow.batch import TextFeatures
from mmflow.model.attention import AbstractAttention, joint_attention
from mmflow.model.block import Stream
from mmflow.model.layout import Layout, Order
from mmflow.model.pictures import AbstractPictureModel
from mmflow.model.ragged import permute_rows
from mmflow.model.segments import Segments

PARTS = ("clip", "t5")


@final
class ThreeSetBlock(nn.Module):
    """Three streams that meet in one attention."""

    def __init__(self, visual: Stream, clip: Stream, t5: Stream) -> None:
        super().__init__()
        self.visual, self.clip, self.t5 = visual, clip, t5

    def forward(
        self,
        streams: tuple[Float[Tensor, "L1 D"], Float[Tensor, "L2 D"], Float[Tensor, "N D"]],
        y: Float[Tensor, "B D"],
        segments: tuple[Segments, Segments, Segments],
        layout: Layout,
        attention: AbstractAttention,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(CLIP's, T5's, picture) rows after the block.

        Args:
            streams: the rows before it.
            y: conditioning vector of each sample.
            segments: which rows of each stream belong to which sample.
            layout: of cat(streams), whose first two are the context.
            attention: the backend.
        """
        sets = self.clip, self.t5, self.visual
        mods = [each.modulations(y) for each in sets]
        qkv = [
            each.queries_keys_values(s.modulate(x, *m[:2]))
            for each, x, s, m in zip(sets, streams, segments, mods, strict=True)
        ]
        q, k, v = (torch.cat(pair) for pair in zip(qkv[0], qkv[1], strict=True))
        context_out, visual_out = joint_attention(attention, (q, k, v), qkv[2], layout)
        outs = *context_out.split([len(streams[0]), len(streams[1])]), visual_out
        rows = []
        for each, x, out, s, m in zip(sets, streams, outs, segments, mods, strict=True):
            rows.append(x if each.last else each.add_mlp(each.add_attention(x, out, s, m), s, m))
        return rows[0], rows[1], rows[2]


@final
class MMDiT3(AbstractPictureModel):
    """An MM-DiT whose context stream is two: where both have the same weights, it is the MM-DiT with two sets."""

    context_parts: ClassVar[int] = len(PARTS)

    def make_block(self, place: int) -> nn.Module:
        last = place == self.depth - 1
        return ThreeSetBlock(self.stream(), self.stream(last=last), self.stream(last=last))

    def through(
        self,
        visual: Float[Tensor, "N D"],
        text: TextFeatures,
        y: Float[Tensor, "B D"],
        lengths: Int[Tensor, " B"],
    ) -> Float[Tensor, "N D"]:
        parts = text.lengths.shape[1]
        if parts != len(PARTS):
            raise ValueError(
                f"MMDiT3 has a weight set for each of two context parts, CLIP's and T5's, and the text encoder gives "
                f"{parts}: take mmflow.encoders.joint_text.JointTextEncoder with a CLIP and t5, or "
                "mmflow.encoders.text.HashedWords with parts 2"
            )
        counts = text.lengths.T.contiguous()
        samples = torch.arange(len(lengths)).numpy()
        # Text comes sample by sample; here it is part by part.
        by_sample = Order.build(counts.numpy(), samples, y.device)
        context = permute_rows(text.context, by_sample.inverse, by_sample.order).to(self.final_modulation.weight.dtype)
        clip, t5 = (
            embed(x) for embed, x in zip(self.context_embeddings, context.split(counts.sum(1).tolist()), strict=True)
        )
        layout = Layout.of_streams(counts, lengths, y.device)
        segments = Segments.of(counts[0]), Segments.of(counts[1]), Segments.of(lengths)
        streams = clip, t5, visual
        for block in self.blocks:
            streams = block(streams, y, segments, layout, self.attention)
        return streams[2]
