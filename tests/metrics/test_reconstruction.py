"""What an autoencoder loses: means over pictures, and LPIPS by its own arithmetic."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mmflow.metrics.lpips import SCALE, SHIFT, Lpips, Trunk, bundled_heads
from mmflow.metrics.pretrained import read_weights
from mmflow.metrics.proxy import SetDistance
from mmflow.metrics.random_features import RandomFeatures
from mmflow.metrics.reconstruction import psnr, reconstruction_scores, ssim

RNG = np.random.default_rng(0)


def test_psnr_is_the_mean_over_pictures_and_not_of_the_pooled_error() -> None:
    one = np.full((2, 16, 16, 3), 100, np.uint8)
    two = one.copy()
    two[0] += 3
    two[1] += 128
    each = [20 * math.log10(255 / 3), 20 * math.log10(255 / 128)]
    assert psnr(one, two).tolist() == pytest.approx(each, abs=1e-4)
    found = reconstruction_scores([one[:1], one[1:]], [two[:1], two[1:]])
    assert found["psnr"]["value"] == pytest.approx(np.mean(each), abs=1e-4)  # pooled it would be 9.0
    assert math.isinf(psnr(one, one)[0])


def test_ssim_is_one_of_itself_and_by_hand_of_flat_pictures() -> None:
    noise = RNG.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert ssim(noise, noise).tolist() == pytest.approx([1, 1])
    a, b = (np.full((1, 32, 32, 3), x, np.uint8) for x in (51, 102))
    c1 = 0.01**2
    assert ssim(a, b)[0] == pytest.approx((2 * 0.2 * 0.4 + c1) / (0.2**2 + 0.4**2 + c1), rel=1e-4)
    with pytest.raises(ValueError, match="window has 11 pixels"):
        ssim(noise[:, :8], noise[:, :8])


def test_clips_count_frame_by_frame_and_their_ends_are_told() -> None:
    clip = RNG.integers(20, 200, (4, 16, 16, 3), dtype=np.uint8)
    worse = clip.copy()
    worse[0] += 20
    worse[1:] += 2
    found = reconstruction_scores([clip, clip], [worse, worse], [SetDistance(RandomFeatures())])
    assert found["psnr/first"]["value"] == pytest.approx(20 * math.log10(255 / 20), abs=1e-3)
    assert found["psnr/last"]["value"] == pytest.approx(20 * math.log10(255 / 2), abs=1e-3)
    assert found["psnr"]["value"] == pytest.approx(20 * math.log10(255) - 5 * math.log10(20 * 2**3), abs=1e-3)
    assert any(name.startswith("kernel/") for name in found)
    with pytest.raises(ValueError, match="pairs of one shape"):
        reconstruction_scores([clip], [clip[:2]])


@pytest.fixture(scope="module")
def alex(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights in torchvision's layout, with the classifier that comes with them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({**Trunk("alex").state_dict(), "classifier.1.weight": torch.zeros(2, 2)}, path)
    return str(path)


def test_lpips_by_its_formula(alex: str) -> None:
    lpips = Lpips(alex)
    assert lpips.absent() is None and lpips.name == "lpips/alex-0.1"
    one, two = RNG.integers(0, 256, (2, 3, 64, 64, 3), dtype=np.uint8)
    found = lpips(one, two)
    assert lpips(one, one).tolist() == [0, 0, 0] and np.all(found > 0)
    assert np.allclose(lpips(two, one), found)
    weights, heads = read_weights(alex), read_weights(bundled_heads("alex"))

    def responses(picture: np.ndarray) -> list[torch.Tensor]:
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        x = (x - torch.tensor(SHIFT).view(1, 3, 1, 1)) / torch.tensor(SCALE).view(1, 3, 1, 1)
        found, conv, pool = [], torch.nn.functional.conv2d, torch.nn.functional.max_pool2d
        for place, stride, padding, first in (
            (0, 4, 2, False),
            (3, 1, 2, True),
            (6, 1, 1, True),
            (8, 1, 1, False),
            (10, 1, 1, False),
        ):
            x = pool(x, 3, 2) if first else x
            x = conv(x, weights[f"features.{place}.weight"], weights[f"features.{place}.bias"], stride, padding).relu()
            found.append(x / x.norm(dim=1, keepdim=True).clamp_min(1e-10))
        return found

    by_hand = sum(
        float(((a - b) ** 2 * heads[f"lin{i}.model.1.weight"]).sum(1).mean())
        for i, (a, b) in enumerate(zip(responses(one[0]), responses(two[0]), strict=True))
    )
    assert found[0] == pytest.approx(by_hand, rel=1e-4)


def test_weights_that_do_not_fit_are_told(alex: str, tmp_path: Path) -> None:
    assert Lpips("./none.pth").absent() == "./none.pth is not there"
    with pytest.raises(ValueError, match="do not fit"):
        Lpips(alex, "vgg")(np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 64, 64, 3), np.uint8))
    assert Trunk("vgg").widths == [64, 128, 256, 512, 512]
