"""What a model is given of a picture or clip, as latents: encoded from what is known alone."""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mmflow.batch import Known
from mmflow.encoders.autoencoder import AbstractAutoencoder


def latent_mask(unknown: Bool[Tensor, "B 1 T H W"], stride: tuple[int, int, int]) -> Float[Tensor, "B 1 t h w"]:
    """1 where any pixel of a latent is unknown: a latent is known only as a whole.

    Args:
        unknown: pixels.
        stride: pixels per latent along (time, height, width). The first frame is a latent frame of its own.
    """
    x = unknown.float()
    x = torch.cat([x[:, :, :1].expand(-1, -1, stride[0] - 1, -1, -1), x], 2)
    return F.max_pool3d(x, stride, stride)


def encode_known(
    autoencoder: AbstractAutoencoder, pixels: UInt8[Tensor, "B 3 T H W"], unknown: Bool[Tensor, "B 1 T H W"]
) -> Known:
    """Latents of the pixels with mid-grey in place of what is unknown, and which of them are known.

    They are never cut from the latents of the whole: an encoder sees further than its own pixels, so these would tell
    of what is to be generated. A sample of which nothing is known has zeros (diffusers' masked latents are encoded the
    same way where something is).
    """
    shape = autoencoder.latent_shape(*pixels.shape[2:])
    latents = torch.zeros(len(pixels), autoencoder.channels, *shape, device=pixels.device)
    mask = torch.ones(len(pixels), 1, *shape, device=pixels.device)
    some = torch.nonzero(~unknown.flatten(1).all(1)).flatten()
    if len(some):
        hidden = unknown[some]
        latents[some] = autoencoder.encode((pixels[some].float() / 127.5 - 1) * ~hidden)
        mask[some] = latent_mask(hidden, autoencoder.stride)
    return Known(latents, mask)
