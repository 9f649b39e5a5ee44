"""What the paper's other transformers of pictures have in common: both ends, with a body between (section 5.2.3)."""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmflow.batch import Conditioning, Groups, TextFeatures
from mmflow.model.attention import make_attention
from mmflow.model.block import Stream
from mmflow.model.embed import PooledEmbedding, TimeEmbedding
from mmflow.model.heads import HEAD_WIDTH, CrossAttention
from mmflow.model.initial import EMBEDDING_STD, initialise
from mmflow.model.mmdit import AbstractBackbone
from mmflow.model.patchify import Patchifier
from mmflow.model.segments import Segments

VIDEO = "mmflow.model.mmdit.MMDiT"


def check_rival(name: str, depth: int, mlp_ratio: float) -> None:
    """Whether there can be such a model.

    Raises:
        ValueError: if not.
    """
    if depth < 1 or mlp_ratio <= 0:
        raise ValueError(f"{name} needs depth >= 1 and mlp_ratio > 0, got {depth} and {mlp_ratio}")


def require_picture(name: str, frames: int) -> None:
    """Refuses clips.

    Raises:
        ValueError: with the model that takes them.
    """
    if frames != 1:
        raise ValueError(
            f"{name} is a model of pictures, as in the paper, and got a clip of {frames} latent frames: set "
            f"--data.clip_share 0, or train {VIDEO}, which takes both"
        )


def require_unknown(name: str, conditioning: Conditioning) -> None:
    """Refuses known latents.

    Raises:
        ValueError: with the model that takes them.
    """
    if conditioning.known is not None:
        raise ValueError(f"{name} has no input for known latents: train {VIDEO} with design.known true")


class AbstractPictureModel(AbstractBackbone):
    """A transformer over packed tokens. Depth is the dial: width 64 depth, heads = depth.

    Args:
        depth: number of blocks.
        in_channels: latent channels C.
        context_width: width of the context tokens.
        pooled_width: width of the pooled text features.
        patch_size: height and width of a patch, in latent units.
        base_size: latent height and width at the training resolution, the origin of the position grid.
        qk_norm: RMSNorm on queries and keys.
        mlp_ratio: hidden width of the MLPs over the model's; beside depth, what parameters are matched by.
        attention: `sdpa`, or `xformers` on CUDA.
    """

    context_parts: ClassVar[int] = 1
    """Weight sets of text: each embeds its own context part; one takes all parts."""

    def __init__(  # noqa: PLR0913 - the settings that make a model; they are its configuration
        self,
        depth: int,
        in_channels: int = 16,
        context_width: int = 4096,
        pooled_width: int = 2048,
        patch_size: int = 2,
        base_size: int = 32,
        qk_norm: bool = True,
        mlp_ratio: float = 4.0,
        attention: Literal["sdpa", "xformers"] = "sdpa",
    ) -> None:
        super().__init__()
        check_rival(type(self).__name__, depth, mlp_ratio)
        self.depth, self.in_channels = depth, in_channels
        self.context_width, self.pooled_width = context_width, pooled_width
        self.width, self.qk_norm, self.mlp_ratio = HEAD_WIDTH * depth, qk_norm, mlp_ratio
        self.attention = make_attention(attention)
        self.picture_patchifier = Patchifier(in_channels, self.width, (1, patch_size, patch_size), base_size)
        self.time_embedding = TimeEmbedding(self.width)
        self.pooled_embedding = PooledEmbedding(pooled_width, self.width)
        self.context_embeddings = nn.ModuleList(nn.Linear(context_width, self.width) for _ in range(self.context_parts))
        self.blocks = nn.ModuleList(self.make_block(i) for i in range(depth))
        self.final_modulation = nn.Linear(self.width, 2 * self.width)
        self.reset_parameters()

    @abstractmethod
    def make_block(self, place: int) -> nn.Module:
        """The block at that place, from 0."""

    @abstractmethod
    def through(
        self,
        visual: Float[Tensor, "N D"],
        text: TextFeatures,
        y: Float[Tensor, "B D"],
        lengths: Int[Tensor, " B"],
    ) -> Float[Tensor, "N D"]:
        """Visual tokens after all blocks.

        Args:
            visual: their rows, sample by sample.
            text: of each sample.
            y: conditioning vector of each sample.
            lengths: visual tokens of each sample (host).
        """

    def stream(self, *, last: bool = False) -> Stream:
        """One weight set of this model's sizes."""
        return Stream(self.width, qk_norm=self.qk_norm, mlp_ratio=self.mlp_ratio, last=last)

    def reset_parameters(self) -> None:
        """DiT's initialisation: modulations and what writes the output, or the text into the picture, start at zero."""
        zeroed = [self.final_modulation, self.picture_patchifier.project]
        zeroed += [m.modulation for m in self.modules() if isinstance(m, Stream)]
        zeroed += [m.proj for m in self.modules() if isinstance(m, CrossAttention)]
        initialise(self, zeroed, EMBEDDING_STD)

    def check_shape(self, frames: int, height: int, width: int) -> int:
        require_picture(type(self).__name__, frames)
        _, h, w = self.picture_patchifier.grid((1, height, width))
        return h * w

    def forward(self, z: Groups, t: Float[Tensor, " B"], conditioning: Conditioning) -> Groups:
        """Output in the shapes of z, fp32.

        Args:
            z: noised latents, one tensor `B_g C 1 H W` per shape.
            t: time of each sample in [0, 1], fp32.
            conditioning: text features of each sample.

        Raises:
            ValueError: for clips, for known latents, and for shapes that cannot be cut into patches.
        """
        require_unknown(type(self).__name__, conditioning)
        for x in z:
            self.check_shape(*x.shape[2:])
        tokens = [self.picture_patchifier.tokenise(x) for x in z]
        y = self.time_embedding(t) + self.pooled_embedding(conditioning.text.pooled)
        visual, lengths = packed(tokens, y)
        visual = self.through(visual, conditioning.text, y, lengths)
        shift, scale = self.final_modulation(F.silu(y)).chunk(2, 1)
        visual = Segments.of(lengths).modulate(visual, shift, scale)
        outputs = zip(unpacked(visual, tokens), z, strict=True)
        return tuple(self.picture_patchifier.detokenise(x, (1, *of.shape[3:])).float() for x, of in outputs)


def packed(
    tokens: list[Float[Tensor, "_ _ D"]], y: Float[Tensor, "B D"]
) -> tuple[Float[Tensor, "N D"], Int[Tensor, " B"]]:
    """All groups' tokens as rows, and how many each sample has (host); `y` says dtype and width for an empty bag."""
    lengths = torch.tensor([x.shape[1] for x in tokens for _ in range(len(x))], dtype=torch.int64)
    return torch.cat([x.flatten(0, 1) for x in tokens]) if tokens else y.new_zeros(0, y.shape[1]), lengths


def unpacked(rows: Float[Tensor, "N D"], like: list[Float[Tensor, "_ _ D"]]) -> list[Float[Tensor, "_ _ D"]]:
    """Rows as the groups that they were."""
    parts = rows.split([len(x) * x.shape[1] for x in like])
    return [part.view(x.shape) for part, x in zip(parts, like, strict=True)]
