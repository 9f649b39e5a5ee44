"""Features of a frozen random network, to take distances between sets of pictures on: nothing to download.

The network is three layers of random convolutions, its weights named draws, the same on every machine. What it sees are
edges, colours and where they are; it knows nothing of objects. Distances on it rank models of one world; they compare
with no published FID.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, leaky_relu

from mmflow import draws
from mmflow.metrics.features import AbstractFeatures, Floats

CHANNELS = (3, 32, 64, 64)
GRID = 4
"""Cells per side over which every layer's responses are averaged."""
BATCH = 256


@final
@dataclass(frozen=True)
class RandomFeatures(AbstractFeatures):
    """Pictures to vectors, on the host.

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

    def identity(self) -> dict[str, Any]:
        return {"network": self.name}

    def absent(self) -> None:
        """Its weights are drawn here."""
        return None

    def to(self, device: str) -> None:
        """Stays on the host, where it gives the same numbers on every machine."""

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
