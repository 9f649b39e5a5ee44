"""Clips cut into frame groups: the paper's way from pictures to video (section 5.3.3).

Every frame group of a clip goes through the blocks as a picture does, with its own copy of the caption, and a new
attention over all visual tokens of the clip follows the spatial one. Behind a zero gate, it leaves the picture model as
it was, frame group by frame group.
"""

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmflow.model.attention import AbstractAttention
from mmflow.model.embed import axis_sinusoid
from mmflow.model.heads import HEAD_WIDTH, Rotation, SelfAttention
from mmflow.model.segments import Segments

Rows = Float[Tensor, "R D"]


@dataclass(frozen=True)
class Clips:
    """The clips of a bag within its visual stream.

    Attributes:
        rows: of the stream that belong to clips; None if all do.
        first: place of each clip's first frame group among all frame groups of the bag.
        segments: which of those rows belong to which clip.
        positions: of the frame group of each of those rows, [sin(w f), cos(w f)].
        rotation: of each of those rows; None for none.
    """

    rows: Int[Tensor, " R"] | None
    first: Int[Tensor, " clips"]
    segments: Segments
    positions: Float[Tensor, "R D"]
    rotation: Rotation | None = None

    def rotated(self, rotation: Rotation | None) -> "Clips":
        """With the rotation of its rows, out of that of all visual tokens."""
        if rotation is None or self.rows is None:
            return replace(self, rotation=rotation)
        cos, sin = (x.index_select(0, self.rows) for x in (rotation.cos, rotation.sin))
        return replace(self, rotation=Rotation(cos, sin))

    @staticmethod
    def build(frames: Int[Tensor, " B"], tokens: Int[Tensor, " B"], width: int, device: torch.device) -> "Clips | None":
        """The samples of more than one frame group; None if there is none.

        Args:
            frames: frame groups of each sample (host).
            tokens: visual tokens of one frame group of each sample (host).
            width: model width D.
            device: where the rows are.
        """
        samples = torch.nonzero(frames > 1).flatten()
        if not len(samples):
            return None
        t, n = frames[samples], tokens[samples]
        lengths = t * n
        place = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        frame = place // n.repeat_interleave(lengths)
        rows = None
        if len(samples) < len(frames):
            starts = (frames * tokens).cumsum(0) - frames * tokens
            rows = (starts[samples].repeat_interleave(lengths) + place).to(device, non_blocking=True)
        return Clips(
            rows,
            (frames.cumsum(0) - frames)[samples].to(device, non_blocking=True),
            Segments(lengths, bool((lengths == lengths[0]).all())),
            axis_sinusoid(frame.float().to(device, non_blocking=True), width),
        )


def context_copies(
    context: Int[Tensor, " B"], frames: Int[Tensor, " B"], device: torch.device
) -> Int[Tensor, " R"] | None:
    """Rows of the context stream once for every frame group of its sample; None if every sample has one.

    Args:
        context: text tokens of each sample (host).
        frames: frame groups of each sample (host).
        device: where the rows are.
    """
    if bool((frames == 1).all()):
        return None
    starts, each = (context.cumsum(0) - context).numpy(), context.numpy().repeat(frames.numpy())
    within = np.arange(each.sum()) - np.repeat(each.cumsum() - each, each)
    rows = np.repeat(starts.repeat(frames.numpy()), each) + within
    return torch.from_numpy(rows).to(device, non_blocking=True)


@final
class ClipAttention(nn.Module):
    """Attention over all visual tokens of a clip, with a modulation of its own."""

    def __init__(self, width: int, *, qk_norm: bool, head_width: int = HEAD_WIDTH) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.attention = SelfAttention(width, qk_norm=qk_norm, head_width=head_width)

    def forward(self, visual: Rows, y: Float[Tensor, "B D"], clips: Clips, attention: AbstractAttention) -> Rows:
        """x + gate attention(modulated x + positions in time), on the rows of clips.

        Args:
            visual: all rows of the stream.
            y: conditioning vector of each frame group of the bag.
            clips: which rows they are.
            attention: the backend.
        """
        x = visual if clips.rows is None else visual.index_select(0, clips.rows)
        shift, scale, gate = self.modulation(F.silu(y.index_select(0, clips.first))).chunk(3, dim=1)
        modulated = clips.segments.modulate(x, shift, scale)
        modulated = modulated + clips.positions.to(modulated.dtype)
        x = clips.segments.gated_add(x, self.attention(modulated, clips.segments, attention, clips.rotation), gate)
        return x if clips.rows is None else visual.index_copy(0, clips.rows, x)

    def idle(self, visual: Rows) -> Rows:
        """`visual` as it is, made to depend on all parameters: for a bag without clips, so that gradients meet."""
        if not torch.is_grad_enabled():
            return visual
        return visual + torch.stack([p.flatten()[:0].float().sum() for p in self.parameters()]).sum().to(visual.dtype)
