"""Media bytes to uint8 frames `T H W 3` in sRGB, upright: pictures by PIL, clips by decord.

The only importer of decord, which is imported where it is needed and opened anew for every sample: a decoder that a
process inherits over a fork hangs. Everything that foreign bytes can do wrong ends as one exception, UnreadableSample.
"""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, UnidentifiedImageError

from mmflow.data.colour import to_rgb
from mmflow.data.container import UnreadableSample as UnreadableSample
from mmflow.data.container import require_whole

Kind = Literal["picture", "clip"]
PICTURE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
CLIP_EXTENSIONS = ("mp4", "mov", "mkv", "webm", "avi", "m4v")
MEDIA_EXTENSIONS = PICTURE_EXTENSIONS + CLIP_EXTENSIONS

MAX_PIXELS = 178_956_970
"""Largest frame that is decoded: where PIL itself refuses a picture as a decompression bomb."""
CLOCK = 1e-3
"""Seconds by which a container may round the time of a frame (Matroska counts milliseconds)."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what EXIF's orientation asks for


@dataclass(frozen=True)
class MediaHeader:
    """What a file says of itself, as it will be decoded: after rotation, an animated picture counting as a clip."""

    kind: Kind
    frames: int
    height: int
    width: int
    fps: float
    """Mean frames per second; 0 for a picture."""
    duration: float
    """Seconds; 0 for a picture."""


def read_header(data: bytes, extension: str) -> MediaHeader:
    """Kind, size and length of a media file, without decoding a picture. `extension` has no dot.

    Raises:
        UnreadableSample: if the bytes are no such file.
    """
    if extension.lower() in CLIP_EXTENSIONS and not _is_still_format(data):
        reader, stamps = _open_video(data)
        with _video_errors():
            height, width = reader[0].shape[:2]
            _refuse_bomb(height, width)
        return _clip_header(stamps, height, width)
    with _picture_errors():
        image = _open_picture(data)
        height, width = image.size[::-1] if _orientation(image) < 5 else image.size
        if not _is_animated(image):
            return MediaHeader("picture", 1, height, width, 0.0, 0.0)
        return _clip_header(_animation_stamps(image), height, width)


def check_media(data: bytes, extension: str) -> MediaHeader:
    """`read_header`, and a decode: the whole picture, or the first and the last frame of a clip.

    Raises:
        UnreadableSample: if the file cannot be decoded.
    """
    header = read_header(data, extension)
    if header.kind == "picture":
        decode_picture(data)
    elif _is_still_format(data):
        _decode_animation(data, np.array([0, header.frames - 1]), (255, 255, 255))
    else:
        reader, stamps = _open_video(data)
        _decode_video(data, reader, np.array([0, len(stamps) - 1]))
    return header


def decode_picture(data: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> UInt8[np.ndarray, "1 H W 3"]:
    """A picture as one frame; see `open_upright`."""
    return np.array(open_upright(data, background))[None]


def open_upright(data: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """A decoded picture: EXIF orientation applied, sRGB, transparency over `background`.

    Raises:
        UnreadableSample: empty, corrupt, truncated or bomb.
    """
    with _picture_errors():
        image = _open_picture(data)
        image.load()
        turn = _TURNS.get(_orientation(image))
        picture = to_rgb(image, background)
        return picture if turn is None else picture.transpose(turn)


def decode_clip(
    data: bytes, num_frames: int, fps: float | int, start: float, background: tuple[int, int, int] = (255, 255, 255)
) -> UInt8[np.ndarray, "T H W 3"]:
    """`num_frames` frames `1/fps` seconds apart, of a video or an animated GIF, WebP or PNG.

    start  in [0, 1): where in the slack between the clip's length and the asked length the first frame lies

    Raises:
        UnreadableSample: empty, corrupt, truncated, no_video, bomb; too_short if the clip ends before the last frame.
        ValueError: if an argument is out of range.
    """
    if _is_still_format(data):
        with _picture_errors():
            stamps = _animation_stamps(_open_picture(data))
        return _decode_animation(data, pick_frames(stamps, num_frames, fps, start), background)
    reader, stamps = _open_video(data)
    return _decode_video(data, reader, pick_frames(stamps, num_frames, fps, start))


def decode_at_rate(data: bytes, fps: float) -> UInt8[np.ndarray, "T H W 3"]:
    """All of a video or an animated picture, at `fps` frames per second.

    Raises:
        UnreadableSample: empty, corrupt, truncated, no_video or bomb.
    """
    header = read_header(data, "mp4")
    return decode_clip(data, max(1, math.ceil((header.duration - CLOCK) * fps)), fps, 0.0)


def pick_frames(
    stamps: Float[np.ndarray, "F 2"], num_frames: int, fps: float | int, start: float
) -> Int[np.ndarray, " T"]:
    """Indices of the frames on screen at the asked times.

    stamps  when each frame appears and disappears, in seconds, ascending and not necessarily regular

    A frame rate above the clip's own repeats frames. n frames span (n - 1) / fps seconds, so a clip of exactly n frames
    at exactly that rate is long enough and gives each of them once, wherever the start falls.

    Raises:
        UnreadableSample: too_short.
        ValueError: if an argument is out of range.
    """
    if num_frames < 1 or not fps > 0 or not 0 <= start < 1:
        raise ValueError(f"need num_frames >= 1, fps > 0, 0 <= start < 1; got {num_frames}, {fps}, {start}")
    first, end = float(stamps[0, 0]), float(stamps[-1, 1])
    span = (num_frames - 1) / fps
    slack = end - first - span
    if slack <= CLOCK and num_frames > 1:
        lasts = f"lasts {end - first:.3f} s ({len(stamps)} frames)"
        raise UnreadableSample("too_short", f"{lasts}, {num_frames} frames at {fps:g} per second were asked for")
    times = first + start * max(slack - 2 * CLOCK, 0.0) + np.arange(num_frames) / fps
    # Half a CLOCK past the middle: of a regular clip the middle of the slack is where one frame gives way to the next,
    # and rounding must not take some of the asked frames from either side.
    indices = np.searchsorted(stamps[:, 0], times + 1.5 * CLOCK, side="right") - 1
    return np.clip(indices, 0, len(stamps) - 1)


def _clip_header(stamps: Float[np.ndarray, "F 2"], height: int, width: int) -> MediaHeader:
    seconds = float(stamps[-1, 1] - stamps[0, 0])
    return MediaHeader("clip", len(stamps), height, width, len(stamps) / seconds if seconds else 0.0, seconds)


def _is_still_format(data: bytes) -> bool:
    """True for the picture formats that can be animated."""
    return data[:3] == b"GIF" or data[:8] == b"\x89PNG\r\n\x1a\n" or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


@contextmanager
def _picture_errors() -> Iterator[None]:
    """PIL's plugins raise anything from SyntaxError to struct.error on foreign bytes: all of it is UnreadableSample."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on large but legal pictures and on odd EXIF
            yield
    except (UnreadableSample, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableSample("bomb", str(error)) from error
    except UnidentifiedImageError as error:
        raise UnreadableSample("corrupt", "no picture format that PIL knows") from error
    except Exception as error:
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise UnreadableSample(reason, str(error) or type(error).__name__) from error


def _open_picture(data: bytes) -> Image.Image:
    require_whole(data)
    image = Image.open(io.BytesIO(data))
    _refuse_bomb(image.height, image.width)
    return image


def _refuse_bomb(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UnreadableSample("bomb", f"{width} x {height} is more than {MAX_PIXELS} pixels")


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8. A broken EXIF block says nothing, and the picture is taken as upright."""
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return value if value in _TURNS else 1


def _is_animated(image: Image.Image) -> bool:
    """Several frames of these formats are a clip; multi-page TIFFs and phones' multi-picture JPEGs are pictures."""
    return image.format in ("GIF", "WEBP", "PNG") and getattr(image, "n_frames", 1) > 1


def _animation_stamps(image: Image.Image) -> Float[np.ndarray, "F 2"]:
    """When each frame appears and disappears, in seconds. As in browsers, a delay of 10 ms or less means 100 ms."""
    milliseconds = []
    for index in range(getattr(image, "n_frames", 1)):
        image.seek(index)
        image.load()
        delay = float(image.info.get("duration", 0))
        milliseconds.append(delay if delay > 10 else 100.0)
    ends = np.cumsum(milliseconds) / 1000
    return np.stack([ends - np.array(milliseconds) / 1000, ends], axis=1)


def _decode_animation(
    data: bytes, indices: Int[np.ndarray, " T"], background: tuple[int, int, int]
) -> UInt8[np.ndarray, "T H W 3"]:
    with _picture_errors():
        image = _open_picture(data)
        frames = {}
        for index in np.unique(indices):  # ascending: a frame is drawn over the ones before it
            image.seek(int(index))
            image.load()
            frames[int(index)] = np.array(to_rgb(image, background))
        return np.stack([frames[int(index)] for index in indices])


@contextmanager
def _video_errors() -> Iterator[None]:
    """decord and FFmpeg say what is wrong only in words."""
    try:
        yield
    except (UnreadableSample, MemoryError):
        raise
    except Exception as error:
        reason = "no_video" if "cannot find video stream" in str(error) else "corrupt"
        raise UnreadableSample(reason, " ".join(str(error).split())[:200] or type(error).__name__) from error


def _open_video(data: bytes) -> tuple[Any, Float[np.ndarray, "F 2"]]:
    """A decord reader (which applies the rotation flag), and when each frame appears and disappears, in seconds."""
    import decord  # late: the process that forks the loader's workers must never have loaded a decoder

    require_whole(data)
    decord.logging.set_level(decord.logging.QUIET)  # errors are raised; FFmpeg's own lines would flood the log
    with _video_errors():
        reader = decord.VideoReader(io.BytesIO(data), ctx=decord.cpu(0), num_threads=1)
        if not len(reader):
            raise UnreadableSample("no_video", "the video track has no frames")
        return reader, np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)


def _decode_video(data: bytes, reader: Any, indices: Int[np.ndarray, " T"]) -> UInt8[np.ndarray, "T H W 3"]:
    """One by one, since decord's `get_batch` fails where `_rgb` has to mend."""
    wanted = np.unique(indices).tolist()
    with _video_errors():
        if len(reader.get_key_indices()) > 1 and _has_open_groups(data):
            found = ((index, reader.next()) for index in range(wanted[-1] + 1))
            frames = {index: _rgb(frame.asnumpy()) for index, frame in found if index in set(wanted)}
        else:
            frames = {index: _rgb(reader[index].asnumpy()) for index in wanted}
        return np.stack([frames[int(index)] for index in indices])


def _has_open_groups(data: bytes) -> bool:
    """Whether frames are shown before a keyframe that stands before them in the file, as in what x265 writes.

    decord counts keyframes in the order of the file. After a seek to such a one it gives other frames than it was asked
    for, and no error; read from the beginning they are right.
    """
    import av

    with av.open(io.BytesIO(data)) as file:
        packets = [(each.pts, each.is_keyframe) for each in file.demux(video=0) if each.pts is not None]
    earliest = math.inf
    for time, is_keyframe in reversed(packets):
        if is_keyframe and earliest < time:
            return True
        earliest = min(earliest, time)
    return False


def _rgb(frame: UInt8[np.ndarray, "H W K"]) -> UInt8[np.ndarray, "H W 3"]:
    """decord takes the padding of FFmpeg's rows for channels where its bytes divide by the width (32, 48, ... px)."""
    height, width, _ = frame.shape
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
