"""The frozen networks as one: 8-bit pixels in, pixels out, nothing that a gradient could reach."""

import pytest
import torch

from mmflow.batch import Codec
from mmflow.encoders.autoencoder import RgbAutoencoder
from mmflow.encoders.bundle import Encoders
from mmflow.encoders.text import HashedWords
from mmflow.export import to_uint8

ENCODERS = Encoders(RgbAutoencoder(scale=2.0, shift=0.1), HashedWords())


def test_every_8_bit_value_survives_the_way_there_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16).expand(1, 3, 1, 16, 16).contiguous()
    latents = ENCODERS.encode_pixels(pixels)
    assert latents.dtype == torch.float32 and latents.shape[1:] == ENCODERS.latent_shape(1, 16, 16)
    (decoded,) = ENCODERS.decode(latents)
    assert (to_uint8(decoded) == pixels[0].permute(1, 2, 3, 0).numpy()).all()


def test_black_and_white_are_the_ends_of_the_range() -> None:
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1, 1).expand(2, 3, 1, 1, 1)
    assert ENCODERS.encode_pixels(ends)[:, 0].flatten().tolist() == pytest.approx([-2.2, 1.8])


def test_it_is_what_sampling_asks_for() -> None:
    codec: Codec = ENCODERS
    assert codec.latent_shape(4, 8, 6) == (3, 4, 8, 6)
    features = codec.encode_text(["a circle", ""])
    assert features.lengths.flatten().tolist() == [2, 1] and not features.context.requires_grad
    latents = torch.zeros(1, 3, 1, 2, 2, requires_grad=True)
    assert not codec.decode(latents).requires_grad
