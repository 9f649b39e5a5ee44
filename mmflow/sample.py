"""One planned sample, read or not."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from mmflow.said import Recalled

Key = tuple[str | int, ...]
"""Whose draw or sample it is: (source, shard, member)."""


@dataclass(frozen=True)
class Sample:
    """One decoded item of a source, not yet part of a step."""

    key: Key
    """(source, shard, member): unique over all sources."""
    visit: int
    """Passes over its source before this one."""
    frames: UInt8[np.ndarray, "T H W 3"]
    """RGB, already cropped to its bucket; of no memory where the latents were recalled."""
    caption: str
    recalled: Recalled | None = None
    fate: str = "whole"
    """How much of the file it is: whole, cropped (a border is missing), or cut_short (so are frames)."""
    framed: tuple[float, float, float, float] | None = None
    """Height and width of the file's picture, and top and left edge of the crop in it: all in its own pixels."""


@dataclass(frozen=True)
class Hole:
    """A planned sample that could not be read. It is never replaced: it counts zero in the loss and is reported."""

    key: Key
    reason: str
    detail: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    """(T, H, W) in pixels that was planned."""
