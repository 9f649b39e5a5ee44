"""What a step of a run costs and what its device can do: the two numbers of a utilisation."""

from typing import Any, final

import torch
from torch import Tensor

from mmflow.batch import Batch
from mmflow.model.mmdit import MMDiT
from mmflow.planning.flops import Load, load_of, step_flops
from mmflow.planning.peak import peak_of


@final
class StepCost:
    """FLOPs of a bag's forward and backward, for captions of any length.

    Of one sample they are a polynomial of second degree in its caption's tokens, which three lengths determine.
    """

    def __init__(self, model: MMDiT) -> None:
        self.model = model
        self._polynomials: dict[tuple[int, int, int], tuple[float, float, float]] = {}

    def __call__(self, latents: tuple[int, int, int], words: Tensor) -> float:
        """Of samples of latents of T x H x W, with so many text tokens each (host)."""
        if latents not in self._polynomials:
            load = load_of(self.model, latents, 1, 0)
            one, two, three = (step_flops(self.model, [Load(1, load.frames, load.plane, n)]).total for n in range(3))
            square = (three - 2 * two + one) / 2
            self._polynomials[latents] = float(one), two - one - square, square
        constant, linear, square = self._polynomials[latents]
        n = words.double()
        return float((constant + linear * n + square * n * n).sum())


@final
class Utilisation:
    """A run's `Meter`."""

    def __init__(self) -> None:
        self._cost: StepCost | None = None

    def flops(self, backbone: Any, batch: Batch) -> float | None:
        """Of a micro-step on this rank; None for other networks than MMDiT, whose cost is not stated."""
        if not isinstance(backbone, MMDiT):
            return None
        if self._cost is None or self._cost.model is not backbone:
            self._cost = StepCost(backbone)
        assert batch.latents is not None and batch.conditioning is not None
        words = batch.conditioning.text.lengths.sum(1).split([len(z) for z in batch.latents])
        total = 0.0
        for z, each in zip(batch.latents, words, strict=True):
            t, h, w = z.shape[2:]
            total += self._cost((t, h, w), each) if len(z) else 0.0
        return total

    def peak(self, device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
        """FLOPs per second, and where the number is from."""
        found = peak_of(device, dtype)
        return found.flops, found.source
