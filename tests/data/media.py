"""Real media files for the tests, made on the spot."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from mmflow.data.index import build_index
from mmflow.data.shard import ShardSample, write_shard

STEP = 10
"""Frame n of a coded clip is grey of value STEP * n."""


def picture_bytes(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(height: int = 30, width: int = 40) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    blue = np.full_like(rows, 90)
    return Image.fromarray(np.stack([rows * 255 // height, columns * 255 // width, blue], -1).astype(np.uint8))


def coded_clip(
    path: Path,
    frames: int = 20,
    fps: int = 10,
    size: tuple[int, int] = (48, 64),
    rotation: int = 0,
    faststart: bool = True,
) -> bytes:
    """A clip whose frame n has the value STEP * n everywhere; its container follows the suffix of `path`."""
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    options = {"movflags": "+faststart"} if faststart and path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": "6"}
        if rotation:
            stream.set_display_rotation(rotation)
        for n in range(frames):
            image = np.full((*size, 3), STEP * n, np.uint8)
            image[: size[0] // 4, : size[1] // 4] = 255  # a white corner, to see turns by
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def uneven_clip(path: Path, times_ms: list[int]) -> bytes:
    """A clip of variable frame rate: frame n, of value STEP * n, appears at `times_ms[n]`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"crf": "6", "bf": "0"}
        for n, time in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), STEP * n, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def sound_only(path: Path) -> bytes:
    """An MP4 without a video track."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def codes(frames: np.ndarray) -> list[int]:
    """The frame numbers that a coded clip shows."""
    return np.round(frames[:, -8, -8].mean(-1) / STEP).astype(int).tolist()


def make_shards(folder: Path, pictures: list[int], clips: list[int]) -> Path:
    """One indexed shard per entry, with that many wide and tall pictures and clips; captions say which they are."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = coded_clip(folder / "clip.mp4")
    for shard, (num_pictures, num_clips) in enumerate(zip(pictures, clips, strict=True)):
        tar = folder / f"{shard:05d}.tar"
        media = [("png", picture_bytes(gradient(20 + n % 2 * 30, 40), "PNG")) for n in range(num_pictures)]
        media += [("mp4", clip)] * num_clips
        write_shard(
            tar,
            [
                ShardSample(f"{shard:05d}{n:04d}", extension, data, f"{extension} {n} of shard {shard}")
                for n, (extension, data) in enumerate(media)
            ],
        )
        build_index(tar)
    return folder
