"""Which parts of a training sample the model is given: one pattern per sample and visit, drawn by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from mmflow import draws

Pattern = Literal["none", "first_frame", "first_last", "continuation", "box"]
IN_TIME: tuple[Pattern, ...] = ("first_frame", "first_last", "continuation")
"""Patterns of clips; a picture that draws one is given nothing."""
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class KnownShares:
    """How often the model is given a part of a sample, so that it learns to continue and to fill in.

    Each sample draws one at every visit, apart from whether its caption is dropped: so the model learns text with and
    without a given part, and a given part with and without text, which is what guidance needs.

    Attributes:
        none: share of samples of which nothing is given; null is what the others leave.
        first_frame: of which the first frame is: image to video.
        first_last: of which the first and the last frame are.
        continuation: of which a beginning is, between the first frame and all but the last.
        box: of which all is but a box, the same in all frames: inpainting.
    """

    none: float | None = None
    first_frame: float = 0.0
    first_last: float = 0.0
    continuation: float = 0.0
    box: float = 0.0

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in get_args(Pattern) if name != "none"}
        for name, share in {**shares, "none": self.none or 0.0}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"data.known.{name} must lie in [0, 1], got {share}")
        rest = 1 - sum(shares.values())
        if rest < -1e-6 or (self.none is not None and abs(self.none - rest) > 1e-6):
            total = sum(shares.values()) + (self.none or 0.0)
            way = f"set data.known.none to {rest:.6g}" if rest >= 0 else "make the others smaller"
            raise ValueError(f"the shares of data.known must sum to 1, got {total:.6g}: {way}")

    @property
    def weights(self) -> list[float]:
        """Of the patterns, in their order."""
        others = [getattr(self, name) for name in get_args(Pattern)[1:]]
        return [max(1 - sum(others), 0.0), *others]

    @property
    def gives(self) -> bool:
        """Whether anything is ever given."""
        return sum(self.weights[1:]) > 0

    def check(self, takes_known: bool, clip_share: float) -> None:
        """Refuses what could not be trained.

        Raises:
            ValueError: if the model has no input for known parts, or all patterns are of clips and there are none.
        """
        if not self.gives:
            return
        if not takes_known:
            raise ValueError(
                "data.known gives parts of the samples to a model that has no input for them: set "
                "--model.backbone.design.known true, or take data.known out"
            )
        if clip_share == 0 and not self.box:
            asked = ", ".join(name for name in IN_TIME if getattr(self, name))
            raise ValueError(
                f"data.known asks for {asked}, which clips have, and data.clip_share is 0: take data.known.box"
            )

    def draw(
        self,
        seed: int,
        key: draws.Key,
        visit: int,
        shape: Shape,
        latent_shape: Callable[[int, int, int], tuple[int, int, int, int]],
    ) -> Bool[Tensor, "1 T H W"] | None:
        """The pixels of a sample that the model is not given; None: it is given nothing.

        Args:
            seed: of all draws.
            key: whose draw it is.
            visit: passes before this one.
            shape: (T, H, W) of the sample in pixels.
            latent_shape: to (C, t, h, w) of its latents; beginnings and boxes are of whole latents.
        """
        if not self.gives:
            return None
        pattern = get_args(Pattern)[draws.choice(seed, "known", key, visit, self.weights)]
        if pattern == "none" or (pattern in IN_TIME and shape[0] == 1):
            return None
        numbers = draws.uniform(seed, "known_place", key, visit, (4,)).tolist()
        return unknown_pixels(pattern, shape, latent_shape(*shape)[1:], numbers)


def unknown_pixels(pattern: Pattern, shape: Shape, latents: Shape, numbers: list[float]) -> Bool[Tensor, "1 T H W"]:
    """What a pattern other than `none` leaves to be generated.

    Args:
        pattern: which.
        shape: (T, H, W) in pixels, of more than one frame but for `box`.
        latents: (t, h, w) of the latents.
        numbers: four in [0, 1): where a box is and how large, or the first of them where a beginning ends.
    """
    frames, height, width = shape
    if pattern == "box":
        unknown = torch.zeros(1, *shape, dtype=torch.bool)
        (top, bottom), (left, right) = (
            _span(n, size, *pair)
            for n, size, pair in ((latents[1], height, numbers[:2]), (latents[2], width, numbers[2:]))
        )
        unknown[:, :, top:bottom, left:right] = True
        return unknown
    unknown = torch.ones(1, *shape, dtype=torch.bool)
    unknown[:, 0] = False
    if pattern == "first_last" and frames > 2:  # of two frames nothing would be left
        unknown[:, -1] = False
    if pattern == "continuation":
        more = math.floor(numbers[0] * (latents[0] - 1))
        unknown[:, : 1 + more * ((frames - 1) // max(latents[0] - 1, 1))] = False
    return unknown


def _span(number: int, size: int, u: float, v: float) -> tuple[int, int]:
    """A piece of a side, in pixels: between a quarter and three quarters of its latents, anywhere on it."""
    length = min(max(round(number * (0.25 + 0.5 * u)), 1), max(number - 1, 1))
    start = math.floor(v * (number - length + 1))
    return start * size // number, (start + length) * size // number
