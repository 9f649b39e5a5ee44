"""MM-DiT, the paper's multimodal diffusion transformer (section 4), for bags of pictures and clips of any shape."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmflow.batch import Conditioning, Groups
from mmflow.model.attention import make_attention
from mmflow.model.block import MMDiTBlock, Stream
from mmflow.model.clips import ClipAttention, Clips, context_copies
from mmflow.model.design import Design
from mmflow.model.embed import PooledEmbedding, TimeEmbedding, plane_positions, rotary_angles
from mmflow.model.heads import HEAD_WIDTH, Rotation
from mmflow.model.initial import initialise
from mmflow.model.inputs import beside_known
from mmflow.model.layout import Layout
from mmflow.model.patchify import Patchifier
from mmflow.model.segments import Segments


@final
@dataclass(frozen=True)
class Prepared(Conditioning):
    """Conditioning of which all that does not depend on t is done, for a sampler that asks again and again.

    Attributes:
        context: the text tokens at the model's width.
        pooled: the pooled features' embedding.
    """

    context: Float[Tensor, "L D"] | None = None
    pooled: Float[Tensor, "B D"] | None = None


class AbstractBackbone(nn.Module, ABC):
    """A network that a flow objective can train: (z, t, conditioning) -> output in the shapes of z.

    Attributes:
        in_channels: latent channels it takes and gives.
        context_width: width of the context tokens it reads.
        pooled_width: width of the pooled text features it reads.
        takes_known: whether it reads `conditioning.known`.
    """

    in_channels: int
    context_width: int
    pooled_width: int
    takes_known: bool = False

    @abstractmethod
    def forward(self, z: Groups, t: Float[Tensor, " B"], conditioning: Conditioning) -> Groups:
        """The network's output for a bag of noised latents."""

    def prepared(self, conditioning: Conditioning) -> Conditioning:
        """The same conditioning with what does not depend on t or z done once; as it is where that is nothing."""
        return conditioning

    @abstractmethod
    def reset_parameters(self) -> None:
        """First weights, for a network that was built without memory."""

    @abstractmethod
    def check_shape(self, frames: int, height: int, width: int) -> int:
        """Visual tokens of latents of T x H x W.

        Raises:
            ValueError: if the model cannot take them, with the nearest numbers it can.
        """


@final
class MMDiT(AbstractBackbone):
    """Depth is the dial: width 64 depth, heads = depth, MLP 4 x width. The defaults are SD3's.

    Args:
        depth: number of blocks d.
        in_channels: latent channels C.
        context_width: width of the context tokens.
        pooled_width: width of the pooled text features.
        patch_size: height and width of a picture's patch, in latent units.
        video_patch_size: (frames, height, width) of a clip's patch; null for a model of pictures only.
        base_size: latent height and width at the training resolution, the origin of the position grid.
        qk_norm: RMSNorm on queries and keys (section 5.3.2).
        attention: `sdpa`, or `xformers` on CUDA.
        design: departures from the paper's plain MM-DiT: those of the released models.
    """

    position_table: Tensor | None

    def __init__(  # noqa: PLR0913 - the ten settings that make a model; they are its configuration
        self,
        depth: int,
        in_channels: int = 16,
        context_width: int = 4096,
        pooled_width: int = 2048,
        patch_size: int = 2,
        video_patch_size: tuple[int, int, int] | None = (2, 2, 2),
        base_size: int = 32,
        qk_norm: bool = True,
        attention: Literal["sdpa", "xformers"] = "sdpa",
        design: Design = Design(),
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        if video_patch_size is not None and video_patch_size[0] < 2:
            raise ValueError(f"video_patch_size must span at least 2 frames, got {video_patch_size}")
        design.check(depth, patch_size, video_patch_size)
        self.design = design
        self.depth, self.in_channels = depth, in_channels
        self.context_width, self.pooled_width = context_width, pooled_width
        self.takes_known = design.known
        self.width = HEAD_WIDTH * depth
        self.attention = make_attention(attention)
        more = in_channels + 1 if design.known else 0
        self.picture_patchifier = Patchifier(in_channels, self.width, (1, patch_size, patch_size), base_size, more)
        self.video_patchifier = (
            None if video_patch_size is None else Patchifier(in_channels, self.width, video_patch_size, base_size, more)
        )
        self.time_embedding = TimeEmbedding(self.width)
        self.pooled_embedding = PooledEmbedding(pooled_width, self.width)
        self.context_embedding = nn.Linear(context_width, self.width)
        self.blocks = nn.ModuleList(
            MMDiTBlock(
                self.width,
                qk_norm=qk_norm,
                mlp_ratio=4,
                last=i == depth - 1,
                dual=i < design.dual_attention_blocks,
                over_time=design.temporal == "added",
                activation=design.activation,
                head_width=design.head_width,
            )
            for i in range(depth)
        )
        self.final_modulation = nn.Linear(self.width, 2 * self.width)
        size = design.position_table
        self.register_buffer("position_table", None if size is None else torch.empty(size, size, self.width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """DiT's initialisation: Xavier linears, N(0, 0.02) embeddings of t and pooled, zero modulations and output.

        0.02 is `design.embedding_std`.
        """
        modulated = [m.modulation for m in self.modules() if isinstance(m, Stream | ClipAttention)]
        zeroed = [self.final_modulation, *(p.project for p in self.patchifiers), *modulated]
        initialise(self, zeroed, self.design.embedding_std)
        if self.position_table is not None:
            self.position_table.copy_(self.formula_table(len(self.position_table), self.position_table.device))

    def formula_table(self, size: int, device: torch.device | None = None) -> Float[Tensor, "{size} {size} D"]:
        """Positions of size x size patches by the paper's formula, to be cropped at the centre (section 5.3.2)."""
        base = self.picture_patchifier.base_size / self.picture_patchifier.patch[1]
        return plane_positions((size, size), (base, base), self.width, device)

    @property
    def patchifiers(self) -> list[Patchifier]:
        """All that the model has, the 2D one first."""
        return [p for p in (self.picture_patchifier, self.video_patchifier) if p is not None]

    def drop_clips(self) -> None:
        """Leaves a model of pictures: removes what only clips go through."""
        self.video_patchifier, self.design = None, replace(self.design, temporal="joint")
        for block in self.blocks:
            assert isinstance(block, MMDiTBlock)
            block.over_time = None

    def patchifier(self, frames: int) -> Patchifier:
        """The one for latents of that many frames.

        Raises:
            ValueError: if frames > 1 and the model is for pictures only.
        """
        if frames == 1:
            return self.picture_patchifier
        if self.video_patchifier is None:
            raise ValueError(f"a model without video_patch_size takes pictures only, got {frames} latent frames")
        return self.video_patchifier

    def check_shape(self, frames: int, height: int, width: int) -> int:
        t, h, w = self.patchifier(frames).grid((frames, height, width))
        table = self.design.position_table
        if table is not None and max(h, w) > table:
            raise ValueError(
                f"latents of {height} x {width} are {h} x {w} patches, more than the {table} x {table} of the model's "
                f"position table: make them smaller, or set design.position_table {max(h, w)} or more"
            )
        return t * h * w

    def prepared(self, conditioning: Conditioning) -> Prepared:
        if isinstance(conditioning, Prepared):
            return conditioning
        text = conditioning.text
        context = self.context_embedding(text.context.to(self.context_embedding.weight.dtype))
        return Prepared(text, conditioning.known, conditioning.framed, context, self.pooled_embedding(text.pooled))

    def forward(self, z: Groups, t: Float[Tensor, " B"], conditioning: Conditioning) -> Groups:
        """Output in the shapes of z, fp32.

        Args:
            z: noised latents, one tensor `B_g C T H W` per shape.
            t: time of each sample in [0, 1], fp32.
            conditioning: text features of each sample, `prepared` or not.

        Raises:
            ValueError: if a shape cannot be cut into patches, or known latents are given to a model that has no input
                for them.
        """
        if conditioning.known is not None and not self.design.known:
            raise ValueError("this model has no input for known latents: set --model.backbone.design.known true")
        text = conditioning.text
        for x in z:
            self.check_shape(*x.shape[2:])
        joint = self.design.temporal == "joint"
        inputs = beside_known(z, conditioning.known) if self.design.known else z
        tokens = [self.patchifier(x.shape[2]).tokenise(x, self.position_table, timed=joint) for x in inputs]
        frames = self._frame_groups(z)
        lengths = torch.tensor([x.shape[1] for x in tokens for _ in range(len(x))], dtype=torch.int64) // frames
        words = text.lengths.sum(1)
        layout = Layout.build(lengths.repeat_interleave(frames), words.repeat_interleave(frames), t.device)
        dtype = self.context_embedding.weight.dtype
        visual = torch.cat([x.flatten(0, 1) for x in tokens]) if tokens else t.new_zeros(0, self.width, dtype=dtype)
        ready = self.prepared(conditioning)
        assert ready.context is not None and ready.pooled is not None
        context, y = ready.context, self.time_embedding(t) + ready.pooled
        copies = context_copies(words, frames, t.device)
        if copies is not None:
            context = context.index_select(0, copies)
            y = y.repeat_interleave(frames.to(t.device), 0, output_size=int(frames.sum()))
        rotation = self._rotation(z, timed=joint)
        clips = Clips.build(frames, lengths, self.width, t.device)
        clips = None if clips is None else clips.rotated(self._rotation(z, timed=True))
        for block in self.blocks:
            visual, context = block(visual, context, y, layout, self.attention, rotation, clips)
        shift, scale = self.final_modulation(nn.functional.silu(y)).chunk(2, 1)
        visual = Segments(layout.visual, layout.dense).modulate(visual, shift, scale)
        return self._outputs(visual, tokens, z, self._idle(z))

    def _frame_groups(self, z: Groups) -> Int[Tensor, " B"]:
        """How many pictures each sample is to the blocks: one, or as many as a clip has frame groups."""
        joint = self.design.temporal == "joint"
        groups = [1 if joint else x.shape[2] // self.patchifier(x.shape[2]).patch[0] for x in z]
        return torch.tensor([n for n, x in zip(groups, z, strict=True) for _ in range(len(x))], dtype=torch.int64)

    def _rotation(self, z: Groups, timed: bool) -> Rotation | None:
        """Of all visual tokens, group by group; None for an empty bag, or for a model that does not rotate.

        Args:
            z: the bag.
            timed: whether a token turns with its frame; where frame groups are pictures, each is at frame 0.
        """
        if not self.design.rotary or not z:
            return None
        angles = []
        for x in z:
            t, h, w = x.shape[2:]
            frames, rows, columns = self.patchifier(t).grid((t, h, w))
            each = rotary_angles((frames if timed else 1, rows, columns), self.design.head_width, x.device)
            angles.append(each.repeat(len(x) * (1 if timed else frames), 1))
        joined = torch.cat(angles)[:, None]
        return Rotation(joined.cos(), joined.sin(), self.design.relative_values)

    def _idle(self, z: Groups) -> Tensor | float:
        """A zero that depends on what the bag does not go through, so that gradients meet on every rank."""
        used = [self.patchifier(x.shape[2]) for x in z]
        idle = [p.idle() for p in self.patchifiers if p not in used]
        return sum(idle) if idle else 0.0

    def _outputs(self, visual: Float[Tensor, "N D"], tokens: list[Tensor], z: Groups, idle: Tensor | float) -> Groups:
        """Each group's rows through its patchifier."""
        outputs = []
        for rows, x, source in zip(visual.split([x.shape[0] * x.shape[1] for x in tokens]), tokens, z, strict=True):
            t, h, w = source.shape[2:]
            outputs.append(self.patchifier(t).detokenise(rows.view(x.shape), (t, h, w)).float() + idle)
        return tuple(outputs)
