"""Sizes that autoencoder and model can both take, and what is said of the others."""

import pytest

from mmflow.data.legal import check_multiple, check_shape, check_shapes
from mmflow.encoders.autoencoder import AbstractAutoencoder, RgbAutoencoder
from tests.conftest import random_mmdit
from tests.encoders.test_autoencoder import Strided


def latent_shape(autoencoder: AbstractAutoencoder):
    return lambda t, h, w: (3, *autoencoder.latent_shape(t, h, w))


def test_frames_that_do_are_named_in_pixels() -> None:
    """An autoencoder of stride 4 in time and a patch of 2 latent frames: 1 + 4k frames with an odd k."""
    model = random_mmdit(1)
    check_shapes([(1, 16, 16), (5, 16, 32), (13, 16, 16)], latent_shape(Strided()), model.check_shape)
    with pytest.raises(ValueError, match=r"samples of 16 x 16 x 16 pixels: .* Clips of 13 or 21 frames can be taken"):
        check_shape((16, 16, 16), latent_shape(Strided()), model.check_shape, "samples")
    with pytest.raises(ValueError, match=r"a prompt of 9 x 16 x 16 pixels: .* Clips of 5 or 13 frames can be taken"):
        check_shape((9, 16, 16), latent_shape(Strided()), model.check_shape, "a prompt")
    with pytest.raises(ValueError, match=r"frames 3 cannot.*Clips of 2 or 4 frames can be taken"):
        check_shape((3, 16, 16), latent_shape(RgbAutoencoder()), model.check_shape, "samples")


def test_a_height_that_is_wrong_says_nothing_of_frames() -> None:
    with pytest.raises(ValueError, match=r"height 20 .* 16 and 24") as error:
        check_shape((5, 20, 16), latent_shape(Strided()), random_mmdit(1).check_shape, "samples")
    assert "Clips of" not in str(error.value)
    with pytest.raises(ValueError, match=r"takes pictures only") as error:
        check_shape((5, 16, 16), latent_shape(Strided()), random_mmdit(1, video_patch_size=None).check_shape, "samples")
    assert "Clips of" not in str(error.value)


def test_buckets_must_be_whole_latents() -> None:
    check_multiple(16, (4, 8, 8))
    with pytest.raises(ValueError, match=r"data\.multiple 16 .* stride 32 x 32: .*64"):
        check_multiple(16, (8, 32, 32))
