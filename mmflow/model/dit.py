"""DiT: text and picture tokens in one sequence, with one set of weights for both (paper section 5.2.3; Peebles & Xie
2023, arXiv 2212.09748).
"""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmflow.batch import TextFeatures
from mmflow.model.attention import AbstractAttention
from mmflow.model.block import Stream
from mmflow.model.layout import Layout
from mmflow.model.pictures import AbstractPictureModel
from mmflow.model.ragged import permute_rows
from mmflow.model.segments import Segments


@final
class DiTBlock(nn.Module):
    """Modulated attention and MLP on one sequence."""

    def __init__(self, both: Stream) -> None:
        super().__init__()
        self.both = both

    def forward(
        self, x: Float[Tensor, "R D"], y: Float[Tensor, "B D"], segments: Segments, attention: AbstractAttention
    ) -> Float[Tensor, "R D"]:
        """The sequence after the block.

        Args:
            x: rows of all samples, text and picture.
            y: conditioning vector of each sample.
            segments: which rows belong to which sample.
            attention: the backend.
        """
        mods = self.both.modulations(y)
        attended = segments.attend(attention, *self.both.queries_keys_values(segments.modulate(x, *mods[:2])))
        x = self.both.add_attention(x, attended, segments, mods)
        return self.both.add_mlp(x, segments, mods)


@final
class DiT(AbstractPictureModel):
    """An MM-DiT with one weight set: where both streams of an MM-DiT have the same weights, the two are the same
    function.
    """

    def make_block(self, place: int) -> nn.Module:
        return DiTBlock(self.stream())

    def through(
        self,
        visual: Float[Tensor, "N D"],
        text: TextFeatures,
        y: Float[Tensor, "B D"],
        lengths: Int[Tensor, " B"],
    ) -> Float[Tensor, "N D"]:
        context = self.context_embeddings[0](text.context.to(self.final_modulation.weight.dtype))
        layout = Layout.build(lengths, text.lengths.sum(1), y.device)
        x = permute_rows(torch.cat([context, visual.to(context.dtype)]), layout.order, layout.inverse)
        y, segments = y.index_select(0, layout.samples), Segments.of(layout.joint)
        for block in self.blocks:
            x = block(x, y, segments, self.attention)
        rows: Tensor = permute_rows(x, layout.inverse, layout.order)
        return rows[len(context) :]
