"""Inception v3 as FID takes it: TensorFlow's inception-2015-12-05, under the names of its published port.

The port is pt_inception-2015-12-05-6726825d.pth of mseitzer/pytorch-fid, whose keys are torchvision's. Where the two
networks differ this is TensorFlow's: averages leave padding out, and the last block pools by maximum.
"""

from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d, relu

WIDTH = 2048
CLASSES = 1008


@final
class Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding: bool = False
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        same = (sides[0] // 2, sides[1] // 2) if padding else 0
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, same, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """The layer."""
        return relu(self.bn(self.conv(x)))


Layer = tuple[str, int, int | tuple[int, int]]
"""Suffix of its name, channels that it gives, kernel."""


def _mean(x: Tensor) -> Tensor:
    return avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return max_pool2d(x, 3, stride=1, padding=1)


@final
class Same(nn.Module):
    """Branches side by side that keep the resolution, and one that pools first.

    Args:
        inputs: channels.
        branches: name of each and its layers.
        pooled: channels of the pooled branch.
        largest: pool by maximum, in place of the mean.
    """

    def __init__(self, inputs: int, branches: dict[str, list[Layer]], pooled: int, largest: bool = False) -> None:
        super().__init__()
        self.names = {name: [name + suffix for suffix, _, _ in layers] for name, layers in branches.items()}
        for name, layers in branches.items():
            widths = [inputs, *(outputs for _, outputs, _ in layers)]
            for (suffix, outputs, kernel), narrow in zip(layers, widths, strict=False):
                setattr(self, name + suffix, Conv(narrow, outputs, kernel, padding=True))
        self.branch_pool = Conv(inputs, pooled, 1)
        self.pool = _largest if largest else _mean

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H W"]:
        """All branches, one after the other in the channels."""
        parts = []
        for names in self.names.values():
            y = x
            for name in names:
                if name.endswith("b"):
                    continue
                split = name.removesuffix("a") + "b" if name.endswith("a") else None
                y = torch.cat([getattr(self, name)(y), getattr(self, split)(y)], 1) if split else getattr(self, name)(y)
            parts.append(y)
        return torch.cat([*parts, self.branch_pool(self.pool(x))], 1)


@final
class Halved(nn.Module):
    """Branches whose last layer halves the resolution, and a pooled one.

    Args:
        inputs: channels.
        branches: name of each and its layers.
    """

    def __init__(self, inputs: int, branches: dict[str, list[Layer]]) -> None:
        super().__init__()
        self.names = {name: [name + suffix for suffix, _, _ in layers] for name, layers in branches.items()}
        for name, layers in branches.items():
            widths = [inputs, *(outputs for _, outputs, _ in layers)]
            for i, ((suffix, outputs, kernel), (narrow, _)) in enumerate(zip(layers, pairwise(widths), strict=True)):
                last = i == len(layers) - 1
                setattr(self, name + suffix, Conv(narrow, outputs, kernel, 2 if last else 1, padding=not last))

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """All branches, one after the other in the channels."""
        parts = []
        for names in self.names.values():
            y = x
            for name in names:
                y = getattr(self, name)(y)
            parts.append(y)
        return torch.cat([*parts, max_pool2d(x, 3, stride=2)], 1)


DOUBLE = "branch3x3dbl"


def _a(inputs: int, pooled: int) -> Same:
    double: list[Layer] = [("_1", 64, 1), ("_2", 96, 3), ("_3", 96, 3)]
    branches: dict[str, list[Layer]] = {"branch1x1": [("", 64, 1)], "branch5x5": [("_1", 48, 1), ("_2", 64, 5)]}
    return Same(inputs, {**branches, DOUBLE: double}, pooled)


def _c(width: int) -> Same:
    wide, tall = (1, 7), (7, 1)
    double: list[Layer] = [("_1", width, 1), ("_2", width, tall), ("_3", width, wide), ("_4", width, tall)]
    branches: dict[str, list[Layer]] = {
        "branch1x1": [("", 192, 1)],
        "branch7x7": [("_1", width, 1), ("_2", width, wide), ("_3", 192, tall)],
        "branch7x7dbl": [*double, ("_5", 192, wide)],
    }
    return Same(768, branches, 192)


def _e(inputs: int, largest: bool) -> Same:
    block = Same(inputs, {"branch1x1": [("", 320, 1)]}, 192, largest)
    for name, first in (("branch3x3", [("_1", 384, 1)]), (DOUBLE, [("_1", 448, 1), ("_2", 384, 3)])):
        narrow, number = inputs, len(first) + 1
        for suffix, outputs, kernel in first:
            setattr(block, name + suffix, Conv(narrow, outputs, kernel, padding=True))
            narrow = outputs
        for letter, sides in (("a", (1, 3)), ("b", (3, 1))):  # two layers on the same input, side by side
            setattr(block, f"{name}_{number}{letter}", Conv(384, 384, sides, padding=True))
        block.names[name] = [*(name + suffix for suffix, _, _ in first), f"{name}_{number}a", f"{name}_{number}b"]
    return block


@final
class Inception(nn.Module):
    """299 x 299 pictures to the 2,048 numbers before the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=True)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = Halved(
            288, {"branch3x3": [("", 384, 3)], DOUBLE: [("_1", 64, 1), ("_2", 96, 3), ("_3", 96, 3)]}
        )
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
        self.Mixed_7a = Halved(
            768,
            {
                "branch3x3": [("_1", 192, 1), ("_2", 320, 3)],
                "branch7x7x3": [("_1", 192, 1), ("_2", 192, (1, 7)), ("_3", 192, (7, 1)), ("_4", 192, 3)],
            },
        )
        self.Mixed_7b, self.Mixed_7c = _e(1280, largest=False), _e(2048, largest=True)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Float[Tensor, "N 3 299 299"]) -> Float[Tensor, "N 2048"]:
        """Features of pixels in about -1..1."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(max_pool2d(x, 3, stride=2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(max_pool2d(x, 3, stride=2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        features: Tensor = x.mean((2, 3))
        return features
