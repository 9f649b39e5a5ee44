"""CrossDiT: a DiT of the picture's tokens that reads the text by cross-attention (paper section 5.2.3; PixArt-alpha,
Chen et al. 2023, arXiv 2310.00426).
"""

from collections.abc import Iterable
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmflow.batch import TextFeatures
from mmflow.model.attention import AbstractAttention
from mmflow.model.block import Stream
from mmflow.model.heads import CrossAttention
from mmflow.model.layout import Order
from mmflow.model.pictures import AbstractPictureModel
from mmflow.model.ragged import permute_rows
from mmflow.model.segments import Segments

Rows = Float[Tensor, "R D"]


@final
class CrossDiTBlock(nn.Module):
    """Modulated attention of the picture's tokens, cross-attention to the text, modulated MLP: PixArt's block, with
    DiT's own modulation in every block.
    """

    def __init__(self, visual: Stream, cross: CrossAttention) -> None:
        super().__init__()
        self.visual, self.cross = visual, cross

    def forward(
        self,
        x: Rows,
        context: Float[Tensor, "L D"],
        y: Float[Tensor, "B D"],
        segments: Segments,
        words: Segments,
        attention: AbstractAttention,
    ) -> Rows:
        """Picture tokens after the block; as for `CrossAttention`, and `y` is each sample's conditioning vector."""
        mods = self.visual.modulations(y)
        attended = segments.attend(attention, *self.visual.queries_keys_values(segments.modulate(x, *mods[:2])))
        x = self.visual.add_attention(x, attended, segments, mods)
        x = x + self.cross(x, context, segments, words, attention).to(x.dtype)
        return self.visual.add_mlp(x, segments, mods)


def through_cross_blocks(
    blocks: Iterable[nn.Module],
    visual: Float[Tensor, "N D"],
    context: Float[Tensor, "L D"],
    y: Float[Tensor, "B D"],
    lengths: tuple[Int[Tensor, " B"], Int[Tensor, " B"]],
    attention: AbstractAttention,
) -> Float[Tensor, "N D"]:
    """Picture tokens after all blocks.

    Samples that are alike in both lengths are made neighbours once, so that they share their attention calls.

    Args:
        blocks: each a `CrossDiTBlock`.
        visual: picture tokens, sample by sample.
        context: embedded text tokens, sample by sample.
        y: conditioning vector of each sample.
        lengths: picture tokens and text tokens of each sample (host).
        attention: the backend.
    """
    each, words = (x.numpy() for x in lengths)
    sequence = np.lexsort((words, each))
    order, words_order = (Order.build(x[None], sequence, y.device) for x in (each, words))
    x = permute_rows(visual, order.order, order.inverse)
    context = permute_rows(context, words_order.order, words_order.inverse)
    y = y.index_select(0, order.samples)
    segments, word_segments = (Segments.of(torch.from_numpy(n[sequence])) for n in (each, words))
    for block in blocks:
        x = block(x, context, y, segments, word_segments, attention)
    rows: Tensor = permute_rows(x, order.inverse, order.order)
    return rows


@final
class CrossDiT(AbstractPictureModel):
    """Text tokens are embedded once, and are the same in all blocks."""

    def make_block(self, place: int) -> nn.Module:
        return CrossDiTBlock(self.stream(), CrossAttention(self.width, qk_norm=self.qk_norm))

    def through(
        self,
        visual: Float[Tensor, "N D"],
        text: TextFeatures,
        y: Float[Tensor, "B D"],
        lengths: Int[Tensor, " B"],
    ) -> Float[Tensor, "N D"]:
        context = self.context_embeddings[0](text.context.to(self.final_modulation.weight.dtype))
        pair = lengths, text.lengths.sum(1)
        return through_cross_blocks(self.blocks, visual, context, y, pair, self.attention)
