"""Resolution- and length-dependent shift of t (section 5.3.2, eq 23).

More pixels show the same content through more noise, so a larger sample needs larger t for the same uncertainty. The
shift belongs to training and sampling alike and depends on each sample's own size.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


def shift_time(t: Float[Tensor, "..."], alpha: Float[Tensor, "..."] | float) -> Float[Tensor, "..."]:
    """t_m = alpha t_n / (1 + (alpha - 1) t_n) (eq 23); logit(t) moves by log(alpha). 0 and 1 stay, exactly."""
    return alpha * t / (alpha * t + (1 - t))


class AbstractShift(ABC):
    """alpha of a sample from the shape of its latents."""

    @abstractmethod
    def alpha(self, frames: int, height: int, width: int) -> float:
        """alpha > 0 for latents of T x H x W; 1 leaves t alone."""

    def alphas(self, groups: tuple[Float[Tensor, "_ _ _ _ _"], ...]) -> Float[Tensor, " B"]:
        """One alpha per sample of a bag, in fp32 on the bag's device."""
        return torch.cat(
            [torch.full((len(z),), self.alpha(*z.shape[2:]), dtype=torch.float32, device=z.device) for z in groups]
        )


@final
@dataclass(frozen=True)
class ConstantShift(AbstractShift):
    """The same alpha for every sample: 1 is no shift, 3 is the paper's choice at 1024 x 1024.

    Attributes:
        value: alpha, > 0.
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        if self.value <= 0:
            raise ValueError(f"shift must be positive, got {self.value}")

    def alpha(self, frames: int, height: int, width: int) -> float:
        return self.value


@final
@dataclass(frozen=True)
class SizeShift(AbstractShift):
    """alpha = base_alpha * sqrt(H W / base_area) * T ** frame_power: eq 23 with the clip's length as further pixels.

    Frames of a clip repeat each other less exactly than neighbouring pixels do, so their share has its own power: 0.5
    counts every frame as new pixels, 0 ignores length.

    Attributes:
        base_area: latent height x width at which alpha equals `base_alpha`.
        base_alpha: alpha of one picture of that area.
        frame_power: exponent of the number of latent frames, >= 0.
    """

    base_area: int
    base_alpha: float = 1.0
    frame_power: float = 0.5

    def __post_init__(self) -> None:
        if self.base_area <= 0 or self.base_alpha <= 0 or self.frame_power < 0:
            raise ValueError(
                f"need base_area > 0, base_alpha > 0, frame_power >= 0; got {self.base_area}, {self.base_alpha}, "
                f"{self.frame_power}"
            )

    def alpha(self, frames: int, height: int, width: int) -> float:
        return self.base_alpha * math.sqrt(height * width / self.base_area) * math.pow(frames, self.frame_power)
