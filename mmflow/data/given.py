"""What a prompt gives beside its text: the first frame, the last, a beginning, or all but a masked part."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from mmflow.batch import Given, Piece
from mmflow.data.colour import to_rgb
from mmflow.data.decode import CLIP_EXTENSIONS, UnreadableSample, decode_at_rate, decode_picture

Media = str | Path | np.ndarray | Image.Image
"""A file, a PIL picture, or uint8 RGB of (H, W, 3) or (T, H, W, 3); of a mask also bool or (H, W), (T, H, W)."""
BACKGROUND = (255, 255, 255)
"""Under what is transparent."""
WHITE = 128
"""A mask's least value where it is white: where it asks to be made anew."""


def read_given(where: str, shape: tuple[int, int, int], fps: float, media: Mapping[str, Media | None]) -> Given | None:
    """What of T x H x W pixels is given by `image`, `last_image`, `video` and `mask`; None if nothing is.

    Args:
        where: whose they are, for messages.
        shape: (T, H, W) of what is to be made.
        fps: of what is to be made; a video file is read at that rate.
        media: any of the four.

    Raises:
        ValueError: if a file is missing or unreadable, a size is not that of what is to be made, or they do not go
            together.
    """
    found = {name: medium for name, medium in media.items() if medium is not None}
    if not found:
        return None
    if {"image", "video"} <= found.keys():
        raise ValueError(f"{where}: image and video both say how it begins: give one of them")
    begins = next((name for name in ("video", "image") if name in found), None)
    if "mask" in found and begins is None:
        raise ValueError(f"{where}: mask without image or video: there is nothing that it could be a mask of")
    pieces = []
    if begins is not None:
        frames = _frames(where, begins, found[begins], shape, fps)
        unknown = np.zeros(frames.shape[:3], bool)
        if "mask" in found:
            unknown = _mask(where, found["mask"], frames.shape[:3], fps)
        pieces.append(Piece(0, frames, unknown))
    if "last_image" in found:
        pieces.append(_last(where, found["last_image"], shape, fps, begun=sum(len(p.frames) for p in pieces)))
    given = Given(tuple(pieces), {name: str(m) for name, m in found.items() if isinstance(m, str | Path)})
    known = ~given.laid_out(*shape)[1]
    if known.all():
        raise ValueError(f"{where}: {' and '.join(found)} give everything: give a mask, or set frames to more")
    if not known.any():
        raise ValueError(f"{where}: the mask is white everywhere, so nothing of the {begins} would be kept")
    return given


def _last(where: str, medium: Media, shape: tuple[int, int, int], fps: float, begun: int) -> Piece:
    if shape[0] < 2 or begun >= shape[0]:
        raise ValueError(
            f"{where}: last_image is the last of {shape[0]} frames, of which {max(begun, 1)} are the beginning: set "
            "frames to more"
        )
    frames = _frames(where, "last_image", medium, shape, fps)
    return Piece(shape[0] - 1, frames, np.zeros(frames.shape[:3], bool))


def _frames(
    where: str, name: str, medium: Media, shape: tuple[int, int, int], fps: float
) -> UInt8[np.ndarray, "T H W 3"]:
    frames = _read(where, name, medium, fps)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"{where}: {name} must be uint8 of (H, W, 3) or (T, H, W, 3), got {_form(frames)}")
    most = 1 if name != "video" else shape[0]
    if len(frames) > most:
        found = f"{name}{_named(medium)} has {len(frames)} frames at {fps:g} per second"
        way = "give it as video" if name != "video" else "cut it, or set frames to more"
        raise ValueError(f"{where}: {found}, and {most} can be given: {way}")
    if frames.shape[1:3] != shape[1:]:
        raise ValueError(_wrong_size(where, name, medium, frames, shape))
    return frames


def _mask(where: str, medium: Media, shape: tuple[int, int, int], fps: float) -> Bool[np.ndarray, "T H W"]:
    """Where it is white, for each of the frames that it masks."""
    mask = _read(where, "mask", medium, fps)
    if mask.dtype == np.uint8:
        mask = mask >= WHITE if mask.ndim == 3 else mask.astype(np.float32).mean(-1) >= WHITE
    if mask.dtype != bool or mask.ndim != 3:
        raise ValueError(f"{where}: mask must be a picture or a clip, or an array of bool or uint8, got {_form(mask)}")
    if mask.shape[1:] != shape[1:]:
        raise ValueError(_wrong_size(where, "mask", medium, mask, shape))
    if len(mask) not in (1, shape[0]):
        raise ValueError(
            f"{where}: the mask{_named(medium)} has {len(mask)} frames, what it masks has {shape[0]}: give one "
            "picture, or as many frames"
        )
    return np.broadcast_to(mask, shape)


def _read(where: str, name: str, medium: Media, fps: float) -> np.ndarray:
    """(T, H, W, 3) of a file or PIL picture; of an array, itself with an axis for its one frame if it has none."""
    if isinstance(medium, Image.Image):
        return np.array(to_rgb(medium, BACKGROUND))[None]
    if isinstance(medium, np.ndarray):
        single = medium.ndim == 2 or (medium.ndim == 3 and medium.shape[2] == 3)
        return medium[None] if single else medium
    try:
        data = Path(medium).read_bytes()
        extension = Path(medium).suffix[1:].lower()
        return decode_at_rate(data, fps) if name == "video" or extension in CLIP_EXTENSIONS else decode_picture(data)
    except OSError as error:
        raise ValueError(f"{where}: {name} {medium}: {error.strerror}") from error
    except UnreadableSample as error:
        raise ValueError(f"{where}: {name} {medium} cannot be read: {error}") from error


def _named(medium: Media) -> str:
    return f" {medium}" if isinstance(medium, str | Path) else ""


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} of {array.shape}"


def _wrong_size(where: str, name: str, medium: Media, frames: np.ndarray, shape: tuple[int, int, int]) -> str:
    height, width = frames.shape[1:3]
    return (
        f"{where}: {name}{_named(medium)} is {width} x {height} pixels (width x height), {shape[2]} x {shape[1]} are "
        f"to be made: resize it, or set width {width} and height {height}"
    )
