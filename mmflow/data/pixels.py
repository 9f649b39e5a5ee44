"""From the bytes of a media file to the pixels of a sample. No torch is imported: decoding alone starts fast."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from mmflow.data.decode import decode_clip, open_upright
from mmflow.data.transform import Size, cover_crop, resize_cover_crop


@dataclass(frozen=True)
class Shot:
    """What is asked of a media file.

    Attributes:
        medium: a picture, or a clip.
        size: (height, width) of the result.
        crop: in [0, 1]: its place in what the file has more, from left to right and from top to bottom.
        frames: of a clip.
        fps: of a clip.
        start: in [0, 1): likewise, in time.
        background: under what is transparent.
    """

    medium: Literal["picture", "clip"]
    size: Size
    crop: tuple[float, float]
    frames: int
    fps: float
    start: float
    background: tuple[int, int, int]


def take(media: bytes, shot: Shot) -> UInt8[np.ndarray, "T H W 3"]:
    """The pixels; UnreadableSample if the file cannot be decoded."""
    if shot.medium == "picture":
        return cover_crop(open_upright(media, shot.background), shot.size, shot.crop)[None]
    frames = decode_clip(media, shot.frames, shot.fps, shot.start, shot.background)
    return resize_cover_crop(frames, shot.size, shot.crop)
