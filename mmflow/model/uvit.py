"""UViT: a U-Net whose middle is a transformer (paper section 5.2.3; "simple diffusion", Hoogeboom et al. 2023, arXiv
2301.11093; not Bao et al.'s U-ViT, which has no convolutions).
"""

from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import Literal, final

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from mmflow.batch import Conditioning, Groups
from mmflow.model.attention import make_attention
from mmflow.model.block import Stream
from mmflow.model.crossdit import CrossDiTBlock, through_cross_blocks
from mmflow.model.embed import PooledEmbedding, TimeEmbedding, plane_positions
from mmflow.model.heads import HEAD_WIDTH, CrossAttention
from mmflow.model.initial import EMBEDDING_STD, initialise
from mmflow.model.mmdit import AbstractBackbone
from mmflow.model.patchify import Patchifier, to_patches, token_grid
from mmflow.model.pictures import check_rival, packed, require_picture, require_unknown, unpacked

Plane = Float[Tensor, "_ _ _ _"]


@dataclass(frozen=True)
class Pyramid:
    """The convolutions around the transformer.

    Attributes:
        levels: above the transformer's; each has twice the height and width, and half the channels, of the one below.
        blocks: residual blocks of each level on the way down, and as many on the way up.
    """

    levels: int = 1
    blocks: int = 2


def group_norm(channels: int) -> nn.GroupNorm:
    """Of at most 32 groups, of at least 4 channels each."""
    return nn.GroupNorm(gcd(32, channels // 4), channels)


@final
class ResidualBlock(nn.Module):
    """x + conv(SiLU(modulated norm(conv(SiLU(norm x))))): starts as the identity."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm_in, self.norm_out = group_norm(channels), group_norm(channels)
        self.conv_in, self.conv_out = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.modulation = nn.Linear(width, 2 * channels)

    def forward(self, x: Plane, y: Float[Tensor, "B D"]) -> Plane:
        shift, scale = self.modulation(F.silu(y))[..., None, None].chunk(2, 1)
        hidden = self.norm_out(self.conv_in(F.silu(self.norm_in(x))))
        out: Tensor = x + self.conv_out(F.silu(hidden * (1 + scale) + shift))
        return out


@final
class Level(nn.Module):
    """Residual blocks of one size, and the way to the next level and back."""

    def __init__(self, channels: int, below: int, width: int, blocks: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(ResidualBlock(channels, width) for _ in range(blocks))
        self.up = nn.ModuleList(ResidualBlock(channels, width) for _ in range(blocks))
        self.descend, self.ascend = nn.Conv2d(channels, below, 1), nn.Conv2d(below, channels, 1)

    def go_down(self, x: Plane, y: Float[Tensor, "B D"]) -> tuple[Plane, list[Tensor]]:
        """The plane of the level below, of half the height and width, and what the way up takes again."""
        kept = []
        for block in self.down:
            x = block(x, y)
            kept.append(x)
        return self.descend(F.avg_pool2d(x, 2)), kept

    def go_up(self, x: Plane, y: Float[Tensor, "B D"], kept: list[Tensor]) -> Plane:
        """This level's plane from that of the level below: kept planes come in by addition, last one first."""
        x = F.interpolate(self.ascend(x), scale_factor=2.0, mode="nearest")
        for block, past in zip(self.up, reversed(kept), strict=True):
            x = block((x + past) * 0.5**0.5, y)
        return x


@final
class UViT(AbstractBackbone):
    """Convolutions run group by group, the transformer over the packed tokens of all groups. Depth is the dial: width
    64 depth in the middle.

    Args:
        depth: number of transformer blocks, each with cross-attention to the text.
        in_channels: latent channels C.
        context_width: width of the context tokens.
        pooled_width: width of the pooled text features.
        patch_size: height and width, in latent units, of what one token of the transformer covers. The convolutions see
            patches of `patch_size` / 2^levels.
        base_size: latent height and width at the training resolution, the origin of the position grid.
        qk_norm: RMSNorm on queries and keys.
        mlp_ratio: hidden width of the transformer's MLPs over its width.
        attention: `sdpa`, or `xformers` on CUDA.
        pyramid: the convolutions.
    """

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
        pyramid: Pyramid = Pyramid(),
    ) -> None:
        super().__init__()
        check_rival("UViT", depth, mlp_ratio)
        shrink = 2**pyramid.levels if pyramid.levels > 0 else 0
        if not shrink or pyramid.blocks < 1 or patch_size % shrink or 16 % shrink:
            raise ValueError(
                f"UViT needs 1 to 4 pyramid.levels, pyramid.blocks >= 1 and a patch_size that 2^levels divides, got "
                f"{pyramid.levels} levels, {pyramid.blocks} blocks and patch_size {patch_size}"
            )
        self.depth, self.in_channels, self.patch_size, self.base_size = depth, in_channels, patch_size, base_size
        self.context_width, self.pooled_width, self.width = context_width, pooled_width, HEAD_WIDTH * depth
        self.attention = make_attention(attention)
        widths = [self.width // 2**n for n in range(pyramid.levels, -1, -1)]
        fine = patch_size // shrink
        self.picture_patchifier = Patchifier(in_channels, widths[0], (1, fine, fine), base_size)
        self.levels = nn.ModuleList(
            Level(channels, below, self.width, pyramid.blocks) for channels, below in pairwise(widths)
        )
        self.time_embedding = TimeEmbedding(self.width)
        self.pooled_embedding = PooledEmbedding(pooled_width, self.width)
        self.context_embedding = nn.Linear(context_width, self.width)
        self.blocks = nn.ModuleList(
            CrossDiTBlock(
                Stream(self.width, qk_norm=qk_norm, mlp_ratio=mlp_ratio), CrossAttention(self.width, qk_norm=qk_norm)
            )
            for _ in range(depth)
        )
        self.norm = group_norm(widths[0])
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """DiT's initialisation; convolutions as torch has them, and each residual block's last one zero."""
        zeroed: list[nn.Linear] = [self.picture_patchifier.project]
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.GroupNorm):
                module.reset_parameters()
            elif isinstance(module, Stream | ResidualBlock):
                zeroed.append(module.modulation)
            elif isinstance(module, CrossAttention):
                zeroed.append(module.proj)
        initialise(self, zeroed, EMBEDDING_STD)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                assert module.conv_out.bias is not None
                nn.init.zeros_(module.conv_out.weight)
                nn.init.zeros_(module.conv_out.bias)

    def check_shape(self, frames: int, height: int, width: int) -> int:
        require_picture("UViT", frames)
        _, h, w = token_grid((1, height, width), (1, self.patch_size, self.patch_size))
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
        require_unknown("UViT", conditioning)
        for x in z:
            self.check_shape(*x.shape[2:])
        text = conditioning.text
        y = self.time_embedding(t) + self.pooled_embedding(text.pooled)
        each_y = y.split([len(x) for x in z])
        middle, kept = [], []
        for x, own in zip(z, each_y, strict=True):
            plane, planes = self._down(x, own)
            middle.append(self._tokens(plane))
            kept.append(planes)
        visual, lengths = packed(middle, y)
        context = self.context_embedding(text.context.to(self.context_embedding.weight.dtype))
        pair = lengths, text.lengths.sum(1)
        visual = through_cross_blocks(self.blocks, visual, context, y, pair, self.attention)
        groups = zip(unpacked(visual, middle), z, each_y, kept, strict=True)
        return tuple(self._up(tokens, x, own, planes) for tokens, x, own, planes in groups)

    def _down(self, z: Float[Tensor, "B C 1 H W"], y: Float[Tensor, "B D"]) -> tuple[Plane, list[list[Tensor]]]:
        """The transformer's plane, and what each level keeps for the way up."""
        _, h, w = self.picture_patchifier.grid((1, z.shape[3], z.shape[4]))
        embed = self.picture_patchifier.embed
        rows = embed(to_patches(z, self.picture_patchifier.patch).to(embed.weight.dtype))
        x, kept = rows.transpose(1, 2).reshape(len(z), embed.out_features, h, w), []
        for level in self.levels:
            assert isinstance(level, Level)
            x, planes = level.go_down(x, y)
            kept.append(planes)
        return x, kept

    def _tokens(self, plane: Plane) -> Float[Tensor, "B N D"]:
        """The transformer's tokens, with their positions by the paper's formula."""
        base = self.base_size / self.patch_size
        place = plane_positions((plane.shape[2], plane.shape[3]), (base, base), self.width, plane.device)
        tokens: Tensor = plane.flatten(2).transpose(1, 2) + place.flatten(0, 1).to(plane.dtype)
        return tokens

    def _up(
        self, tokens: Float[Tensor, "B N D"], z: Tensor, y: Float[Tensor, "B D"], kept: list[list[Tensor]]
    ) -> Float[Tensor, "B C 1 H W"]:
        _, h, w = token_grid((1, z.shape[3], z.shape[4]), (1, self.patch_size, self.patch_size))
        x = tokens.transpose(1, 2).reshape(len(tokens), self.width, h, w)
        for level, planes in zip(reversed(list(self.levels)), reversed(kept), strict=True):
            assert isinstance(level, Level)
            x = level.go_up(x, y, planes)
        rows = F.silu(self.norm(x)).flatten(2).transpose(1, 2)
        return self.picture_patchifier.detokenise(rows, (1, z.shape[3], z.shape[4])).float()
