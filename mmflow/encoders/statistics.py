"""Shift and scale of latents, measured on data: what normalises an autoencoder that states none, or not those of your
data.

The file is JSON: {"shift": m, "scale": 1 / s} with one number for all channels, as the paper has it (appendix B.2), or
one per channel; what else stands in it tells how they were measured.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.encoders.latent_spec import Numbers


@final
class LatentStatistics:
    """Mean and spread of each channel, added up in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self._sums = torch.zeros(2, channels, dtype=torch.float64)

    def update(self, raw: Float[Tensor, "B C t h w"]) -> None:
        """Adds raw latents, as they are before shift and scale."""
        values = raw.detach().double().cpu().transpose(0, 1).flatten(1)
        self._sums += torch.stack([values.sum(1), values.square().sum(1)])
        self.count += values.shape[1]

    def compute(self, per_channel: bool) -> dict[str, Any]:
        """`shift`, `scale` and what they come from.

        Raises:
            ValueError: if there were no latents, or a channel never changes.
        """
        if not self.count:
            raise ValueError("no latents to measure: no picture or clip could be read")
        mean, square = self._sums / self.count
        std = (square - mean.square()).clamp(min=0).sqrt()
        whole_mean = mean.mean()
        whole_std = (square.mean() - whole_mean.square()).clamp(min=0).sqrt()
        if float(std.min() if per_channel else whole_std) < 1e-6:
            raise ValueError(f"a latent channel never changes (spreads {std.tolist()}): it cannot be scaled to 1")
        return {
            "shift": mean.tolist() if per_channel else float(whole_mean),
            "scale": (1 / std).tolist() if per_channel else float(1 / whole_std),
            "latents_per_channel": self.count,
            "channel_mean": mean.tolist(),
            "channel_std": std.tolist(),
        }


def read_statistics(path: str, channels: int) -> tuple[Numbers, Numbers]:
    """(shift, scale) of a statistics file.

    Raises:
        ValueError: if it is missing or malformed, has another number of channels, or a scale is not positive.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"latent statistics {path}: cannot be read: {error}") from error
    found = []
    for name in ("shift", "scale"):
        value = content.get(name) if isinstance(content, dict) else None
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
            raise ValueError(f'latent statistics {path}: needs "{name}", a number or one per channel, got {value!r}')
        if isinstance(value, list) and len(value) != channels:
            raise ValueError(
                f'latent statistics {path}: "{name}" has {len(value)} numbers, the autoencoder has {channels} channels'
            )
        if name == "scale" and min(numbers) <= 0:
            raise ValueError(f"latent statistics {path}: a scale must be positive, got {value!r}")
        found.append(tuple(map(float, value)) if isinstance(value, list) else float(value or 0.0))
    return found[0], found[1]


def spread(numbers: Numbers, like: Tensor) -> Tensor:
    """As a tensor that multiplies `B C t h w`, in the dtype and on the device of `like`."""
    return torch.as_tensor(numbers, dtype=like.dtype, device=like.device).reshape(-1, 1, 1, 1)


def gather(batches: Iterable[Tensor], channels: int, per_channel: bool) -> dict[str, Any]:
    """The content of a statistics file for raw latents, batches `B C t h w` of any shapes."""
    statistics = LatentStatistics(channels)
    for raw in batches:
        statistics.update(raw)
    return statistics.compute(per_channel)
