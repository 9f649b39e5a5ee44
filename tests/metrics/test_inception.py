"""Inception: the published layout, its odd corners by hand, and resizing as the two common packages do it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

from mmflow.metrics.inception import Inception, _e
from mmflow.metrics.inception_features import InceptionFeatures, clean, stretched
from mmflow.metrics.pretrained import BUFFERS
from tests.metrics.published import drawn, published

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)


def test_the_published_layout_key_by_key() -> None:
    with torch.device("meta"):
        network = Inception()
    own = {n: tuple(w.shape) for n, w in network.state_dict().items() if n.rsplit(".", 1)[-1] not in BUFFERS}
    assert own == published("inception") and len([name for name in own if name.endswith("conv.weight")]) == 94


def conv(block: nn.Module, name: str, x: torch.Tensor, padding: tuple[int, int] = (0, 0)) -> torch.Tensor:
    layer = getattr(block, name)
    y = nn.functional.conv2d(x, layer.conv.weight, padding=padding)
    bn = layer.bn
    return relu((y - bn.running_mean[:, None, None]) / (bn.running_var[:, None, None] + 1e-3).sqrt())


def test_blocks_pool_as_tensorflow_s_do() -> None:
    """The last pools by maximum, those before by a mean that leaves the padding out; a and b stand side by side."""
    torch.manual_seed(0)
    for pool in (avg_pool2d, max_pool2d):
        block, x = _e(40, largest=pool is max_pool2d).eval(), torch.randn(1, 40, 3, 3)
        more = {"count_include_pad": False} if pool is avg_pool2d else {}
        three, double = conv(block, "branch3x3_1", x), conv(block, "branch3x3dbl_1", x)
        double = conv(block, "branch3x3dbl_2", double, (1, 1))
        parts = [conv(block, "branch1x1", x)]
        for stem, y in (("branch3x3_2", three), ("branch3x3dbl_3", double)):
            parts += [conv(block, f"{stem}a", y, (0, 1)), conv(block, f"{stem}b", y, (1, 0))]
        parts.append(conv(block, "branch_pool", pool(x, 3, stride=1, padding=1, **more)))
        with torch.no_grad():
            assert torch.allclose(block(x), torch.cat(parts, 1), atol=1e-4)


def test_resizing_is_that_of_clean_fid_and_of_pytorch_fid() -> None:
    channel = Image.fromarray(PICTURES[0, ..., 1].astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
    assert np.allclose(clean(PICTURES)[0, 1].numpy(), (np.asarray(channel) - 128) / 128, atol=1e-6)
    x = torch.from_numpy(PICTURES / 255).permute(0, 3, 1, 2).float()
    y = nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
    assert torch.allclose(stretched(PICTURES), 2 * y - 1, atol=1e-5)


@pytest.mark.slow
def test_features_from_a_file(tmp_path: Path) -> None:
    weights = drawn(published("inception"))
    weights["Conv2d_1a_3x3.bn.num_batches_tracked"] = torch.tensor(0)  # newer files have it
    save_file(weights, tmp_path / "inception.safetensors")
    features = InceptionFeatures(str(tmp_path / "inception.safetensors"))
    assert features.absent() is None and features.name == "inception-clean"
    found = features.of([PICTURES[:1]])
    assert found.shape == (1, 2048) and found.dtype == np.float64 and np.isfinite(found).all()
    save_file({"fc.bias": torch.zeros(1008), "head.bias": torch.zeros(1)}, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=r"(?s)missing: Conv2d_1a_3x3\.bn\.bias.*unexpected: head\.bias"):
        InceptionFeatures(str(tmp_path / "cut.safetensors"))(PICTURES)
