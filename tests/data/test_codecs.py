"""Every codec that clips come in, pixel for pixel what FFmpeg shows (PyAV carries one), and frames picked by time."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from mmflow.data.decode import decode_clip, read_header

CODECS = {
    "H.264": ("libx264", "yuv420p", "mp4", {"crf": "20", "g": "6"}),
    "HEVC of 10 bits": ("libx265", "yuv420p10le", "mp4", {"crf": "20", "x265-params": "log-level=none:keyint=6"}),
    "H.264 of open groups": (
        "libx264",
        "yuv420p",
        "matroska",
        {"x264-params": "open-gop=1:keyint=6:bframes=3:scenecut=0"},
    ),
    "AV1": ("libsvtav1", "yuv420p10le", "mp4", {"crf": "30", "preset": "12"}),
    "VP9": ("libvpx-vp9", "yuv420p", "webm", {"crf": "20", "g": "6", "deadline": "realtime"}),
}
FRAMES, FPS, HEIGHT, WIDTH = 14, 12, 80, 112


def scene(n: int) -> np.ndarray:
    """A gradient that moves behind a hard edge."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    wave = 127 + 100 * np.sin((columns + 7 * n) / 9 + rows / 15)
    image = np.stack([wave, 255 - wave, (rows * 3 + n * 11) % 256], -1)
    image[20:50, 10 + 4 * n : 40 + 4 * n] = (250, 30, 10)
    return image.astype(np.uint8)


def encoded(name: str) -> bytes:
    codec, format, container, options = CODECS[name]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=FPS)
        stream.height, stream.width, stream.pix_fmt, stream.options = HEIGHT, WIDTH, format, options
        for n in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(scene(n), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return buffer.getvalue()


def by_ffmpeg(data: bytes) -> np.ndarray:
    """All frames, converted as the ffmpeg program does."""
    with av.open(io.BytesIO(data)) as file:
        stream = file.streams.video[0]
        graph = av.filter.Graph()
        source, convert, sink = (
            graph.add_buffer(template=stream),
            graph.add("format", "pix_fmts=rgb24"),
            graph.add("buffersink"),
        )
        source.link_to(convert)
        convert.link_to(sink)
        graph.configure()
        frames = []
        for frame in file.decode(stream):
            source.push(frame)
            frames.append(sink.pull().to_ndarray())
        return np.stack(frames)


@pytest.fixture(scope="module", params=CODECS)
def clip(request: pytest.FixtureRequest) -> tuple[bytes, np.ndarray]:
    data = encoded(request.param)
    return data, by_ffmpeg(data)


def test_pixels_are_ffmpeg_s(clip: tuple[bytes, np.ndarray]) -> None:
    data, expected = clip
    header = read_header(data, "mp4")
    assert (header.kind, header.frames, header.height, header.width) == ("clip", FRAMES, HEIGHT, WIDTH)
    assert header.fps == pytest.approx(FPS, rel=0.05)
    assert np.array_equal(decode_clip(data, FRAMES, FPS, 0.0), expected)


def test_frames_of_another_rate_are_those_on_screen_then(clip: tuple[bytes, np.ndarray]) -> None:
    """Every quarter of a second of 12 frames a second is every third; 24 a second show each twice."""
    data, expected = clip
    every_third = decode_clip(data, 4, 4.0, 0.0)
    assert np.array_equal(every_third, expected[::3][:4])
    twice = decode_clip(data, 8, 24.0, 0.0)
    assert np.array_equal(twice, np.repeat(expected, 2, 0)[:8])
    late = decode_clip(data, 2, 12.0, 0.99)
    assert any(np.array_equal(late, expected[n : n + 2]) for n in (FRAMES - 3, FRAMES - 2))
