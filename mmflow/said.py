"""What frozen networks said of samples before: as a cache keeps it, and as it travels beside a batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Said:
    """What one frozen text encoder says of B captions, packed, as a cache keeps it: maybe in half precision."""

    states: Float[Tensor, "L C"]
    lengths: Int[Tensor, " B"]
    """Tokens of each caption, in host memory; 0: the encoder was not asked."""
    pooled: Float[Tensor, "B V"]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Said":
        """On another device; lengths stay where they are."""
        states, pooled = (x.to(device, non_blocking=non_blocking) for x in (self.states, self.pooled))
        return Said(states, self.lengths, pooled)

    def pin_memory(self) -> "Said":
        """Page-locked copies, for transfers that do not wait."""
        return Said(self.states.pin_memory(), self.lengths, self.pooled.pin_memory())

    def one(self, sample: int) -> "Said":
        """Of one caption."""
        start = int(self.lengths[:sample].sum())
        rows = slice(sample, sample + 1)
        return Said(self.states[start : start + int(self.lengths[sample])], self.lengths[rows], self.pooled[rows])

    @staticmethod
    def cat(parts: "list[Said]") -> "Said":
        """The captions of all `parts`, one after the other."""
        return Said(*(torch.cat([getattr(part, name) for part in parts]) for name in ("states", "lengths", "pooled")))


@dataclass(frozen=True)
class Recalled:
    """What a cache gave of one sample."""

    latents: Float[Tensor, "C t h w"] | None
    """Raw, before shift and scale; or mean and log-variance of the posterior, one after the other."""
    said: Mapping[str, Said] = field(default_factory=dict)
    """Of its caption, by encoder."""
