"""LPIPS 0.1 (Zhang et al. 2018): distance of two pictures in the layers of AlexNet or VGG16, by weights from paths.

Sum over layers of the mean over places of sum_c w_c (a_c - b_c)^2, with a, b the layer's responses of unit length over
the channels. AlexNet's numbers and VGG's differ by 2 to 4 times: the backbone is part of the name.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mmflow.metrics.features import Floats
from mmflow.metrics.pretrained import absent, check_layout, digest, read_weights

Backbone = Literal["alex", "vgg"]
POOL = "pool"
TAP = "tap"
Layer = tuple[int, int, int, int] | str
"""(channels out, kernel, stride, padding) of a convolution with ReLU; POOL; or TAP: the responses are compared here."""


def _vgg() -> list[Layer]:
    layers: list[Layer] = []
    for number, (width, times) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))):
        layers += [*([POOL] if number else []), *[(width, 3, 1, 1)] * times, TAP]
    return layers


PLANS: dict[str, list[Layer]] = {
    "alex": [
        *((64, 11, 4, 2), TAP, POOL, (192, 5, 1, 2), TAP, POOL),
        *((384, 3, 1, 1), TAP, (256, 3, 1, 1), TAP, (256, 3, 1, 1), TAP),
    ],
    "vgg": _vgg(),
}
POOLS = {"alex": (3, 2), "vgg": (2, 2)}
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
BATCH = 32
TINY = 1e-10


@final
class Trunk(nn.Module):
    """The convolutions of torchvision's AlexNet or VGG16, under its names.

    Args:
        backbone: which.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.taps: list[int] = []
        self.widths: list[int] = []
        layers: list[nn.Module] = []
        width = 3
        for layer in PLANS[backbone]:
            if layer == TAP:
                self.taps.append(len(layers) - 1)
                self.widths.append(width)
            elif layer == POOL:
                layers.append(nn.MaxPool2d(*POOLS[backbone]))
            else:
                assert not isinstance(layer, str)
                out, kernel, stride, padding = layer
                layers += [nn.Conv2d(width, out, kernel, stride, padding), nn.ReLU()]
                width = out
        self.features = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "N 3 H W"]) -> list[Tensor]:
        """The responses that are compared, each of unit length over the channels."""
        found = []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self.taps:
                found.append(x / (x.pow(2).sum(1, keepdim=True).sqrt() + TINY))
        return found


@final
class Lpips:
    """LPIPS with weights from files.

    Args:
        path: the backbone, torchvision's alexnet-owt-7be5be79.pth or vgg16-397923af.pth.
        backbone: `alex`, which the authors report, or `vgg`.
        heads: the linear layers of version 0.1; null takes those that come with torchmetrics.
    """

    def __init__(self, path: str, backbone: Backbone = "alex", heads: str | None = None) -> None:
        self.path, self.backbone, self.heads = path, backbone, heads or bundled_heads(backbone)

    @property
    def name(self) -> str:
        """With its backbone and version."""
        return f"lpips/{self.backbone}-0.1"

    def identity(self) -> dict[str, Any]:
        """All that its numbers depend on."""
        return {"backbone": self.backbone, "weights": digest(self.path), "heads": digest(self.heads), "version": "0.1"}

    def absent(self) -> str | None:
        """Why it cannot be used here; None if its weights are there."""
        return absent(self.path, self.heads)

    @torch.inference_mode()
    def __call__(self, one: UInt8[np.ndarray, "N H W 3"], two: UInt8[np.ndarray, "N H W 3"]) -> Floats:
        """Distance of each pair of pictures, (N,)."""
        trunk, weights = _load(self.path, self.backbone, self.heads)
        parts = []
        for start in range(0, len(one), BATCH):
            a, b = (trunk(_pixels(x[start : start + BATCH])) for x in (one, two))
            layers = [
                ((x - y) ** 2 * w.view(1, -1, 1, 1)).sum(1).mean((1, 2)) for x, y, w in zip(a, b, weights, strict=True)
            ]
            parts.append(torch.stack(layers).sum(0).double().numpy())
        distances: Floats = np.concatenate(parts)
        return distances


def _pixels(pictures: UInt8[np.ndarray, "N H W 3"]) -> Float[Tensor, "N 3 H W"]:
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return (x - torch.tensor(SHIFT).view(3, 1, 1)) / torch.tensor(SCALE).view(3, 1, 1)


def bundled_heads(backbone: str) -> str:
    """Where torchmetrics keeps the linear layers of version 0.1."""
    spec = find_spec("torchmetrics")
    assert spec is not None and spec.origin is not None  # Lightning needs it
    return str(Path(spec.origin).parent / "functional" / "image" / "lpips_models" / f"{backbone}.pth")


@lru_cache(maxsize=2)
def _load(path: str, backbone: Backbone, heads: str) -> tuple[Trunk, list[Tensor]]:
    """The network and each layer's weights.

    Raises:
        ValueError: if a file is not there, or a key is missing, left over or of another shape.
    """
    trunk = Trunk(backbone)
    found = {name: value for name, value in read_weights(path).items() if name.startswith("features.")}
    check_layout(found, {name: tuple(value.shape) for name, value in trunk.state_dict().items()}, path)
    trunk.load_state_dict({name: value.float() for name, value in found.items()})
    linear = read_weights(heads)
    check_layout(linear, {f"lin{i}.model.1.weight": (1, n, 1, 1) for i, n in enumerate(trunk.widths)}, heads)
    weights = [linear[f"lin{i}.model.1.weight"].float().flatten() for i in range(len(trunk.widths))]
    return trunk.eval().requires_grad_(False), weights
