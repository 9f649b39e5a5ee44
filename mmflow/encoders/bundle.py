"""The frozen networks of a run as one thing: what previews, sampling and scoring need beside the model."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mmflow.batch import TextFeatures
from mmflow.encoders.autoencoder import AbstractAutoencoder
from mmflow.encoders.text import AbstractTextEncoder


@dataclass(frozen=True)
class Encoders:
    """An autoencoder and a text encoder."""

    autoencoder: AbstractAutoencoder
    text: AbstractTextEncoder

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, t, h, w) of the latents of T x H x W pixels; ValueError if the stride does not divide them."""
        return self.autoencoder.channels, *self.autoencoder.latent_shape(frames, height, width)

    @torch.no_grad()
    def encode_text(self, captions: list[str]) -> TextFeatures:
        """Features of each caption on the host."""
        return self.text.encode(captions)

    @torch.no_grad()
    def encode_pixels(self, pixels: UInt8[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C t h w"]:
        """Normalised latents of 8-bit pixels, fp32."""
        return self.autoencoder.encode(pixels.float() / 127.5 - 1)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Pixels of normalised latents."""
        return self.autoencoder.decode(latents)
