"""Known latents are encoded from what is known alone."""

from pathlib import Path

import pytest
import torch

from mmflow.encoders.autoencoder import RgbAutoencoder
from mmflow.encoders.diffusers_autoencoder import DiffusersAutoencoder
from mmflow.encoders.known import encode_known, latent_mask
from tests.encoders.test_diffusers_autoencoder import wan


def test_a_latent_is_known_only_as_a_whole() -> None:
    unknown = torch.zeros(1, 1, 9, 4, 4, dtype=torch.bool)
    unknown[0, 0, 5, 3, 0] = True  # frame 5 is in the third latent frame of four frames each after the first
    mask = latent_mask(unknown, (4, 2, 2))
    expected = torch.zeros(1, 1, 3, 2, 2)
    expected[0, 0, 2, 1, 0] = 1
    assert torch.equal(mask, expected)
    assert torch.equal(latent_mask(unknown, (1, 1, 1)), unknown.float())


def test_colours_are_given_as_they_are() -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 2, 2), dtype=torch.uint8)
    unknown = torch.ones(2, 1, 4, 2, 2, dtype=torch.bool)
    unknown[0, :, 0] = False
    known = encode_known(RgbAutoencoder(scale=2.0), pixels, unknown)
    torch.testing.assert_close(known.latents[0, :, 0], 2 * (pixels[0, :, 0] / 127.5 - 1))
    assert not known.latents[0, :, 1:].any() and not known.latents[1].any()
    assert torch.equal(known.mask, unknown.float())
    empty = encode_known(RgbAutoencoder(), pixels[:0], unknown[:0])
    assert empty.latents.shape == (0, 3, 4, 2, 2) and empty.mask.shape == (0, 1, 4, 2, 2)


@pytest.fixture(scope="module")
def video_autoencoder(tmp_path_factory: pytest.TempPathFactory) -> DiffusersAutoencoder:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp("wan")
    wan().save_pretrained(folder)
    return DiffusersAutoencoder(str(folder))


@pytest.mark.parametrize("pattern", ["first", "first and last", "box"])
def test_nothing_of_what_is_unknown_is_told(pattern: str, video_autoencoder: DiffusersAutoencoder) -> None:
    """Other pixels in the unknown part change nothing; those of the known part do."""
    pixels = torch.randint(0, 256, (1, 3, 9, 16, 16), dtype=torch.uint8)
    unknown = torch.ones(1, 1, 9, 16, 16, dtype=torch.bool)
    unknown[:, :, 0] = False
    if pattern == "first and last":
        unknown[:, :, -1] = False
    if pattern == "box":
        unknown[:] = False
        unknown[..., :8, :8] = True
    known = encode_known(video_autoencoder, pixels, unknown)
    others = torch.where(unknown, 255 - pixels, pixels)
    again = encode_known(video_autoencoder, others, unknown)
    assert torch.equal(known.latents, again.latents) and torch.equal(known.mask, again.mask)
    # Cut from the latents of the whole it would not be so: an encoder looks around itself.
    whole, other = (video_autoencoder.encode(x / 127.5 - 1) for x in (pixels, others))
    if pattern == "box":
        assert (whole - other)[..., 1, 1].abs().max() > 1e-4
    else:
        torch.testing.assert_close(known.latents[:, :, 0], whole[:, :, 0], atol=1e-4, rtol=1e-4)
    changed = encode_known(video_autoencoder, 255 - pixels, unknown)
    assert (changed.latents - known.latents).abs().max() > 1e-2
    expected = {"first": [0, 1, 1], "first and last": [0, 1, 1], "box": [1, 1, 1]}[pattern]
    assert known.mask[0, 0].amax((1, 2)).tolist() == expected
    assert known.mask.mean() == pytest.approx(1 / 4 if pattern == "box" else 2 / 3)
