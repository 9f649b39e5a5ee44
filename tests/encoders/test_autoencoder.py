"""Autoencoders: the way there and back, and shapes that the stride decides."""

import pytest
import torch
from torch import Tensor

from mmflow.encoders.autoencoder import AbstractAutoencoder, RgbAutoencoder


class Strided(AbstractAutoencoder):
    """As real ones are: several pixels per latent; the first frame becomes a latent frame of its own."""

    channels = 16
    stride = (4, 8, 8)
    frame_step = 4

    def load(self) -> None:
        raise NotImplementedError

    def identity(self, whole: bool = False) -> dict:
        return {"kind": "Strided"}

    def normalise(self, raw: Tensor) -> Tensor:
        return raw

    def encode_raw(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError

    decode = encode_raw


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (2.5, 0.25)])
def test_there_and_back(scale: float, shift: float) -> None:
    autoencoder, pixels = RgbAutoencoder(scale, shift), torch.rand(2, 3, 4, 6, 8) * 2 - 1
    latents = autoencoder.encode(pixels)
    assert torch.allclose(latents, (pixels - shift) * scale)
    assert torch.allclose(autoencoder.decode(latents), pixels, atol=1e-6)
    assert latents.shape[1:] == (autoencoder.channels, *autoencoder.latent_shape(4, 6, 8))


@pytest.mark.parametrize(
    ("pixels", "latents"), [((1, 64, 32), (1, 8, 4)), ((5, 64, 32), (2, 8, 4)), ((17, 8, 8), (5, 1, 1))]
)
def test_latents_are_pixels_over_stride(pixels: tuple, latents: tuple) -> None:
    assert Strided().latent_shape(*pixels) == latents


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ((6, 64, 64), r"1 \+ k \* 4 frames: not 6, but 5 or 9"),
        ((1, 60, 64), "height 60 .* stride 8: .* 56 and 64"),
        ((1, 64, 3), "width 3 .* stride 8: .* 8 and 8"),
    ],
)
def test_what_the_stride_does_not_divide_is_refused_with_the_nearest(pixels: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Strided().latent_shape(*pixels)


def test_scale_must_be_positive() -> None:
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        RgbAutoencoder(scale=0)
