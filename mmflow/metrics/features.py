"""What distances between sets of pictures are taken on: a frozen network that turns a picture into a vector."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Pictures = NDArray[np.uint8]
Frames = NDArray[np.uint8]
SHOWN_FRAMES = 4
"""Frames of a clip that a judge of pictures sees."""


class AbstractJudge(ABC):
    """A frozen network that looks at pictures."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What its numbers are called in tables and logs."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """All that its numbers depend on: network, digest of the weights, how pictures are resized."""

    @abstractmethod
    def absent(self) -> str | None:
        """Why it cannot be used here, in one line; None if its weights are there."""

    @abstractmethod
    def to(self, device: str) -> None:
        """Where it works from now on."""


class AbstractMediaFeatures(AbstractJudge):
    """Pictures and clips to vectors. Each one's features are its own: batches and order do not show."""

    clips_only: bool = False
    """Whether it says nothing of pictures."""

    @abstractmethod
    def of(self, media: Sequence[Frames]) -> Floats:
        """One vector, in float64, for each of some uint8 (T, H, W, 3) of any sizes."""


class AbstractFeatures(AbstractMediaFeatures):
    """Pictures to vectors; a clip's is the mean over four of its frames."""

    @abstractmethod
    def __call__(self, pictures: Pictures) -> Floats:
        """(N, H, W, 3) to (N, width), in float64."""

    def of(self, media: Sequence[Frames]) -> Floats:
        return each_medium(media, lambda pictures, _: self(pictures))


def each_medium(media: Sequence[Frames], judge: Callable[[Pictures, list[int]], Floats]) -> Floats:
    """One row per picture or clip: the mean over its shown frames.

    Args:
        media: uint8 (T, H, W, 3), of any sizes.
        judge: pictures of one size (N, H, W, 3), and for each the place in `media` it comes from, to N rows.
    """
    shown = [show(frames) for frames in media]
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, frames in enumerate(shown):
        by_size.setdefault(frames.shape[1:], []).append(index)
    rows: dict[int, Floats] = {}
    for members in by_size.values():
        owners = [index for index in members for _ in shown[index]]
        values = judge(np.concatenate([shown[index] for index in members]), owners)
        ends = np.cumsum([len(shown[index]) for index in members])
        rows |= {index: part.mean(0) for index, part in zip(members, np.split(values, ends[:-1]), strict=True)}
    return np.stack([rows[index] for index in range(len(media))]) if media else np.zeros(0)


def show(frames: Frames) -> Frames:
    """The frames that a judge of pictures sees: four, spread from the first to the last, or all of fewer."""
    picked = np.linspace(0, len(frames) - 1, min(SHOWN_FRAMES, len(frames))).round().astype(int)
    shown: Frames = frames[picked]
    return shown
