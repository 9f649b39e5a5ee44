"""Distances between sets of pictures on the features of a frozen random network: nothing to download.

The network is three layers of random convolutions, its weights named draws, the same on every machine. What it sees are
edges, colours and where they are; it knows nothing of objects. Distances on it rank models of one world; they compare
with no published FID.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, leaky_relu

from mmflow import draws

Floats = NDArray[np.float64]
CHANNELS = (3, 32, 64, 64)
GRID = 4
"""Cells per side over which every layer's responses are averaged."""
BATCH = 256


@final
@dataclass(frozen=True)
class RandomFeatures:
    """Pictures to vectors.

    Attributes:
        width: of the vectors. Frechet distance wants many more pictures than that.
        seed: of the weights.
    """

    width: int = 64
    seed: int = 0

    @property
    def name(self) -> str:
        """What a distance must be labelled with."""
        return f"random-conv-{'-'.join(map(str, CHANNELS))}-grid{GRID}-width{self.width}-seed{self.seed}"

    def _weights(self) -> list[Tensor]:
        def draw(name: str, *shape: int) -> Tensor:
            return draws.normal(self.seed, "random_features", (name,), 0, shape)

        convolutions = [
            draw(f"layer{i}", wide, narrow, 3, 3) * (2 / (9 * narrow)) ** 0.5
            for i, (narrow, wide) in enumerate(pairwise(CHANNELS))
        ]
        pooled = sum(CHANNELS) * GRID**2
        return [*convolutions, draw("projection", pooled, self.width) * pooled**-0.5]

    @torch.no_grad()
    def __call__(self, pictures: UInt8[np.ndarray, "N H W 3"]) -> Floats:
        """(N, width), in float64. Each picture's features are its own: batches and order do not show."""
        *convolutions, projection = self._weights()
        parts = []
        for start in range(0, len(pictures), BATCH):
            x = torch.from_numpy(pictures[start : start + BATCH]).permute(0, 3, 1, 2).float() / 127.5 - 1
            parts.append(self._features(x, convolutions) @ projection)
        return torch.cat(parts).double().numpy() if parts else np.zeros((0, self.width))

    @staticmethod
    def _features(x: Float[Tensor, "N 3 H W"], convolutions: list[Tensor]) -> Float[Tensor, "N P"]:
        pooled = [adaptive_avg_pool2d(x, GRID).flatten(1)]
        for weight in convolutions:
            x = leaky_relu(conv2d(x, weight, stride=2, padding=1), 0.2)
            pooled.append(adaptive_avg_pool2d(x, GRID).flatten(1))
        return torch.cat(pooled, dim=1)


def frechet_distance(a: Floats, b: Floats) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2) with unbiased covariances, of features (N, width).

    Raises:
        ValueError: if a set holds fewer than two pictures.
    """
    _check(a, b)
    difference = a.mean(0) - b.mean(0)
    s_a, s_b = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    values, vectors = np.linalg.eigh(s_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ s_b @ root).clip(0)).sum()
    return float(difference @ difference + np.trace(s_a) + np.trace(s_b) - 2 * cross)


def kernel_distance(a: Floats, b: Floats) -> float:
    """Unbiased MMD^2 with the kernel (x y / width + 1)^3, KID's; may fall below 0.

    Raises:
        ValueError: if a set holds fewer than two pictures.
    """
    _check(a, b)

    def kernel(x: Floats, y: Floats) -> Floats:
        result: Floats = (x @ y.T / x.shape[1] + 1) ** 3
        return result

    def within(x: Floats) -> float:
        k = kernel(x, x)
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)))

    return within(a) + within(b) - 2 * float(kernel(a, b).mean())


def _check(a: Floats, b: Floats) -> None:
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a distance between sets needs two pictures in each, got {len(a)} and {len(b)}")
