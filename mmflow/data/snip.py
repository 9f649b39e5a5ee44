"""A part of a film as an MP4 of its own.

Copying packets can only begin at a keyframe, seconds before the asked start. So the part is decoded and encoded anew:
H.264 with a keyframe every half second or so (random access is then cheap), without its sound. It shows what the film
shows from `start` to `end`, to the millisecond, each frame as long as the film does; the turn that a telephone notes
beside a film is applied, and odd sides lose their last row or column, as 4:2:0 asks.
"""

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mmflow.data.container import UnreadableSample

CLOCK = Fraction(1, 1000)
"""Seconds by which a container may round the time of a frame."""
TICK = Fraction(1, 90_000)
"""Unit of the written times, in seconds."""
SLACK = Fraction(1, 2)
"""Seconds by which a film may end before the asked end: lists round."""
CRF, KEYFRAME = 16, 12
"""x264's constant quality (visually lossless), and frames between keyframes."""


def snip(path: Path, start: float, end: float) -> bytes:
    """The part of a film from `start` to `end`, in seconds from its beginning, as the bytes of an MP4.

    Raises:
        UnreadableSample: missing, no_video, corrupt; bad_span if the film has no such part.
    """
    import av  # late: no process that forks may have loaded a decoder

    if not 0 <= start < end < float("inf"):
        raise UnreadableSample("bad_span", f"from {start:g} s to {end:g} s: the start must come before the end")
    first, last = Fraction(start), Fraction(end)
    try:
        with av.open(str(path)) as film:
            if not film.streams.video:
                raise UnreadableSample("no_video", f"{path}: no video track")
            rate = film.streams.video[0].average_rate or Fraction(25)
            data = _encode(_shown(film, first, last), rate)
    except FileNotFoundError as error:
        raise UnreadableSample("missing", f"{path}: no such file") from error
    except av.FFmpegError as error:
        raise UnreadableSample("corrupt", f"{path}: {error}") from error
    if not data:
        raise UnreadableSample("bad_span", f"{path}: nothing is shown from {start:g} s to {end:g} s")
    return data


def _shown(film: Any, start: Fraction, end: Fraction) -> Iterator[tuple[Fraction, Any]]:
    """(time from the start, frame) of what is on screen from start to end; last (time, None) when that ends."""
    held, gone = None, Fraction(0)
    length = end - start
    for time, frame in _frames_from(film, start):
        if time >= end - CLOCK:
            break
        gone = time + (frame.duration or 0) * frame.time_base
        if time <= start + CLOCK:
            held = frame
            continue
        if held is not None:
            yield Fraction(0), held
            held = None
        yield time - start, frame
    else:
        if gone < end - SLACK:
            span = f"from {float(start):g} s to {float(end):g} s"
            raise UnreadableSample("bad_span", f"{span}: the film ends at {float(gone):.2f} s")
        if gone <= start + CLOCK:
            return
        length = min(length, gone - start)
    if held is not None:
        yield Fraction(0), held
    yield length, None


def _frames_from(film: Any, start: Fraction) -> Iterator[tuple[Fraction, Any]]:
    """(time, frame) of a film, from some frame on that is on screen no later than `start`."""
    stream = film.streams.video[0]
    zero = (stream.start_time or 0) * stream.time_base
    began = False
    for place in (start, Fraction(0)):  # where there is no index, a seek can end too late
        if place > 0 or began:
            film.seek(int((place + zero) / stream.time_base), stream=stream, backward=True)
        for frame in film.decode(stream):
            if frame.pts is None:
                continue
            time = frame.pts * frame.time_base - zero
            if not began and place > 0 and time > start + CLOCK:
                began = True
                break
            began = True
            yield time, frame
        else:
            return


def _encode(shown: Iterator[tuple[Fraction, Any]], rate: Fraction) -> bytes:
    """An MP4 of frames that each stay until the next time; nothing of no frames."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        context = stream.codec_context
        context.time_base, context.gop_size = TICK, KEYFRAME
        stream.options = {"crf": str(CRF), "preset": "fast", "bf": "0"}
        stream.pix_fmt = "yuv420p"
        lasting: dict[int, int] = {}
        held = None

        def write(frame: Any) -> None:
            for packet in stream.encode(frame):
                packet.duration = lasting[packet.pts]  # x264 only guesses it, and the last one decides the length
                container.mux(packet)

        for time, frame in shown:
            if held is not None:
                lasting[held.pts] = round(time / TICK) - held.pts
                write(held)
            if frame is None:
                break
            upright = _upright(frame)
            if held is None:
                stream.height, stream.width = upright.height, upright.width
                for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
                    setattr(context, name, getattr(upright, name))
            upright.pts, upright.time_base = round(time / TICK), TICK
            held = upright
        if held is None:
            return b""
        write(None)
    return buffer.getvalue()


def _upright(frame: Any) -> Any:
    """The frame in 4:2:0, turned as it should be seen, with even sides."""
    import av

    if not frame.rotation and frame.height % 2 == frame.width % 2 == 0:
        return frame.reformat(format="yuv420p")
    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    even = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
    made = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24").reformat(format="yuv420p")
    made.colorspace = av.video.reformatter.Colorspace.ITU601  # what the conversion from RGB makes
    made.color_range = av.video.reformatter.ColorRange.MPEG
    return made
