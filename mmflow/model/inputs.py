"""What goes into the patchifiers beside the noised latents."""

import torch
from torch import Tensor

from mmflow.batch import Groups, Known


def beside_known(z: Groups, known: tuple[Known, ...] | None) -> tuple[Tensor, ...]:
    """[z_t, mask, known latents] on the channels, (B, 2C + 1, T, H, W) per group.

    Args:
        z: noised latents.
        known: of each group, what is given; None: nothing is, which is a mask of ones beside zeros.
    """
    if known is None:
        return tuple(torch.cat([x, torch.ones_like(x[:, :1]), torch.zeros_like(x)], 1) for x in z)
    return tuple(torch.cat([x, k.mask.to(x.dtype), k.latents.to(x.dtype)], 1) for x, k in zip(z, known, strict=True))
