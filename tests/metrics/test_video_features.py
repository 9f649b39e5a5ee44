"""FVD's core: the same distances as of pictures, on networks that see clips."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmflow.metrics.proxy import SetDistance
from mmflow.metrics.scoring import Reference, Share, distance_of_store
from mmflow.metrics.video_features import I3dFeatures, RandomVideoFeatures, TransformersVideoFeatures, i3d_pixels
from tests.metrics.stores import store_of

RNG = np.random.default_rng(0)


def clips(number: int, frames: int = 4) -> list[np.ndarray]:
    return [RNG.integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8) for _ in range(number)]


def test_the_order_of_frames_shows_and_batches_do_not() -> None:
    features = RandomVideoFeatures()
    some = clips(5)
    found = features.of(some)
    assert found.shape == (5, 64) and found.dtype == np.float64
    assert np.allclose(features.of(some[::-1])[::-1], found, atol=1e-6)
    assert np.abs(features.of([some[0][::-1]])[0] - found[0]).max() > 1e-2
    mixed = features.of([some[0], clips(1, frames=6)[0], some[1]])
    assert np.allclose(mixed[[0, 2]], found[:2], atol=1e-6)
    with pytest.raises(ValueError, match="there are pictures among these"):
        features.of([some[0][:1]])


def test_the_distance_of_a_store_is_of_its_clips(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", [("a", {})], images=24, frames=4)
    distance = SetDistance(RandomVideoFeatures(width=4))
    same = Reference("itself", list, lambda: store.media())
    found = distance_of_store(store, distance, same, Share())
    (frechet,) = [score for name, score in found.items() if name.startswith("frechet/")]
    assert all(name.endswith("/clips") for name in found) and abs(frechet["value"]) < 1e-6
    pictures = store_of(tmp_path / "p", [("a", {})], images=2)
    assert distance_of_store(pictures, distance, Reference("none", list, list), Share()) == {}


def test_a_video_network_by_path(tmp_path: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEModel

    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=16, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=8, num_hidden_layers=1,
        num_attention_heads=1, intermediate_size=8,
    )  # fmt: skip
    VideoMAEModel(config).save_pretrained(tmp_path / "mae")
    features = TransformersVideoFeatures(str(tmp_path / "mae"))
    assert features.absent() is None and features.of(clips(3, frames=7)).shape == (3, 8)
    assert features.identity()["weights"] and TransformersVideoFeatures("./none").absent() is not None


class Program(torch.nn.Module):
    """As I3D is called; its features say what it was given."""

    def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert not rescale and not resize and return_features
        return torch.stack([x.mean((1, 2, 3, 4)), x.amax((1, 2, 3, 4)), x.amin((1, 2, 3, 4))], 1)


def test_i3d_is_given_clips_in_its_range(tmp_path: Path) -> None:
    torch.jit.script(Program()).save(str(tmp_path / "i3d_torchscript.pt"))
    features = I3dFeatures(str(tmp_path / "i3d_torchscript.pt"))
    black, white = np.zeros((10, 8, 8, 3), np.uint8), np.full((10, 8, 8, 3), 255, np.uint8)
    assert np.allclose(features.of([black, white]), [[-1, -1, -1], [1, 1, 1]], atol=1e-5)
    assert i3d_pixels(black[None]).shape == (1, 3, 10, 224, 224)
    with pytest.raises(ValueError, match="10 frames and more, got 9"):
        features.of([black[:9]])
    (tmp_path / "bad.pt").write_bytes(b"no program")
    with pytest.raises(ValueError, match="no TorchScript program"):
        I3dFeatures(str(tmp_path / "bad.pt")).of([black])
