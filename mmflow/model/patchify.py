"""Latents to tokens and back: the only place that knows a picture from a clip."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmflow.model.embed import centre_crop, over_time, plane_positions


def to_patches(z: Float[Tensor, "B C T H W"], patch: tuple[int, int, int]) -> Float[Tensor, "B N F"]:
    """Cuts latents into (t, h, w) patches; the features of a patch are ordered (c, t, h, w), as a convolution has
    them.
    """
    b, c, t, h, w = z.shape
    pt, ph, pw = patch
    z = z.reshape(b, c, t // pt, pt, h // ph, ph, w // pw, pw)
    return z.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, (t // pt) * (h // ph) * (w // pw), c * pt * ph * pw)


def from_patches(
    tokens: Float[Tensor, "B N F"], shape: tuple[int, int, int], patch: tuple[int, int, int]
) -> Float[Tensor, "B C T H W"]:
    """Latents of (T, H, W) = `shape` from patches whose features are ordered (t, h, w, c): channel fastest, as
    SD3 has it.
    """
    (t, h, w), (pt, ph, pw) = shape, patch
    b, c = len(tokens), tokens.shape[-1] // (pt * ph * pw)
    z = tokens.reshape(b, t // pt, h // ph, w // pw, pt, ph, pw, c)
    return z.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(b, c, t, h, w)


def token_grid(shape: tuple[int, int, int], patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """Tokens along (time, height, width) of latents of (T, H, W) = `shape`.

    Raises:
        ValueError: if the patch does not divide the latents; the message names legal numbers.
    """
    for name, size, p in zip(("frames", "height", "width"), shape, patch, strict=True):
        if size % p:
            lower, upper = max(size // p, 1) * p, (size // p + 1) * p
            raise ValueError(
                f"latent {name} {size} cannot be cut into patches of {p}: the nearest legal numbers are "
                f"{lower} and {upper} (patch {patch}, latents {tuple(shape)})"
            )
    t, h, w = (size // p for size, p in zip(shape, patch, strict=True))
    return t, h, w


@final
class Patchifier(nn.Module):
    """In- and out-projection for patches of one size, with the positions of their tokens.

    Args:
        channels: latent channels C.
        width: model width D.
        patch: (t, h, w) of a patch in latent units; t=1 is the 2D patchifier, t>1 the 3D one.
        base_size: latent height and width at the training resolution, the origin of the position grid.
        more: channels that come in beside the latents.
    """

    def __init__(self, channels: int, width: int, patch: tuple[int, int, int], base_size: int, more: int = 0) -> None:
        super().__init__()
        if min(patch) < 1:
            raise ValueError(f"patch sizes must be at least 1, got {patch}")
        self.patch, self.base_size, self.width = patch, base_size, width
        volume = patch[0] * patch[1] * patch[2]
        self.embed = nn.Linear((channels + more) * volume, width)
        self.project = nn.Linear(width, channels * volume)

    def grid(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Tokens along (time, height, width) of latents of that (T, H, W); see `token_grid`."""
        return token_grid(shape, self.patch)

    def positions(
        self, grid: tuple[int, int, int], table: Float[Tensor, "m m D"] | None, timed: bool, device: torch.device
    ) -> Float[Tensor, "N D"]:
        """Positions of a grid of tokens: cut from a table, or by the paper's formula; those of time if `timed`."""
        frames, *rest = grid
        if table is not None:
            plane = centre_crop(table, (rest[0], rest[1]))
        else:
            base = self.base_size / self.patch[1], self.base_size / self.patch[2]
            plane = plane_positions((rest[0], rest[1]), base, self.width, device)
        return over_time(plane, frames) if timed else plane.flatten(0, 1).repeat(frames, 1)

    def tokenise(
        self, z: Float[Tensor, "B C T H W"], table: Float[Tensor, "m m D"] | None = None, timed: bool = True
    ) -> Float[Tensor, "B N D"]:
        """Tokens with their positions added, in the dtype of the weights.

        Args:
            z: latents of one shape.
            table: of positions; None for the paper's formula.
            timed: whether a token's frame is among its positions; frames are then told apart from the first on.
        """
        t, h, w = z.shape[2:]
        positions = self.positions(self.grid((t, h, w)), table, timed, z.device)
        tokens: Tensor = self.embed(to_patches(z, self.patch).to(self.embed.weight.dtype))
        return tokens + positions.to(tokens.dtype)

    def detokenise(self, tokens: Float[Tensor, "B N D"], shape: tuple[int, int, int]) -> Float[Tensor, "B C T H W"]:
        """Output tokens to latents of (T, H, W) = `shape`."""
        return from_patches(self.project(tokens), shape, self.patch)

    def idle(self) -> Float[Tensor, ""]:
        """A zero that depends on all parameters: what a rank without such samples adds, so that gradients always
        meet.
        """
        empty = self.project(self.embed(self.embed.weight.new_zeros(0, self.embed.in_features)))
        return torch.sum(empty.float())
