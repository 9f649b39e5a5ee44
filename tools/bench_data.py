"""Pictures and clips per second through the loader, against bare decoding of the same bytes: a group of tools/bench.py.

Both sides decode, resize and crop the same samples in this one process, in turn. The loader also finds each in the plan
and in the index, reads it from its tar, draws its crop, first frame, noise and u, and makes the batch.
"""

import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader

from mmflow.data.deal import Dealing
from mmflow.data.decode import decode_clip, decode_picture
from mmflow.data.index import build_index
from mmflow.data.places import Medium, Places, choose_places
from mmflow.data.plan import Plan
from mmflow.data.reader import Draws, ShareReader, ShareSampler
from mmflow.data.shard import ShardSample, read_sample, write_shard
from mmflow.data.source import Framing, ShardSource
from mmflow.data.transform import resize_cover_crop
from mmflow.export import write_mp4

PICTURES, CLIPS, BATCH = 64, 16, 16
FRAMING = Framing(sizes=((256, 256),), frames=16, fps=8.0, random=True)
REACH = 0.8
"""Of the speed of bare decoding that the loader must reach."""


def _noise(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """Drifting blurred noise: about as hard to decode as photographs."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).filter(
        ImageFilter.GaussianBlur(2)
    )
    return np.stack([np.roll(np.asarray(image), 2 * n, 1) for n in range(frames)])


def _write(folder: Path) -> dict[Medium, Places]:
    samples = []
    for n in range(PICTURES):
        buffer = io.BytesIO()
        Image.fromarray(_noise(n, 1, 512, 640)[0]).save(buffer, "JPEG", quality=90)
        samples.append(ShardSample(f"{n:09d}", "jpg", buffer.getvalue(), f"picture {n}"))
    for n in range(CLIPS):
        film = write_mp4(folder / "clip.mp4", _noise(n, 60, 288, 384), 24)
        samples.append(ShardSample(f"{PICTURES + n:09d}", "mp4", film.read_bytes(), f"clip {n}"))
    write_shard(folder / "00000.tar", samples)
    build_index(folder / "00000.tar")
    return choose_places("bench", (str(folder / "00000.tar"),), "all")


def _through_loader(source: ShardSource) -> float:
    plan = Plan([source], [1.0], BATCH, end=source.size)
    reader = ShareReader([source], Draws(0, 0.1, True), lambda t, h, w: (16, t, h // 8, w // 8))
    start = time.perf_counter()
    read = sum(
        len(batch) for batch in DataLoader(reader, sampler=ShareSampler(plan, 0, 0, Dealing(1)), batch_size=None)
    )
    assert read == source.size
    return time.perf_counter() - start


def _bare(medium: Medium, media: list[bytes]) -> float:
    start = time.perf_counter()
    for data in media:
        frames = decode_picture(data) if medium == "picture" else decode_clip(data, FRAMING.frames, FRAMING.fps, 0.5)
        resize_cover_crop(frames, FRAMING.sizes[0])
    return time.perf_counter() - start


def data(rounds: int) -> dict[str, dict[str, float]]:
    """All figures of the group, by name: medians in milliseconds, and the ratio bare / loader with its quartiles."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        places = _write(Path(folder))
        for medium, what in (("picture", "640x512 JPEGs"), ("clip", "16 frames of 384x288 H.264 clips")):
            source = ShardSource("bench", medium, places[medium], FRAMING, seed=0)
            media = [read_sample(*source._find(source.locate(0, nth, nth).row))[0] for nth in range(source.size)]
            _through_loader(source), _bare(medium, media)
            pairs = [(_through_loader(source), _bare(medium, media)) for _ in range(rounds)]
            low, ratio, high = statistics.quantiles([bare / ours for ours, bare in pairs], n=4)
            ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
            name = f"{what} to 256x256: {source.size / ours:.0f}/s, bare {source.size / bare:.0f}/s"
            figures[name] = {
                **{"ours_ms": ours * 1e3, "peer_ms": bare * 1e3, "ratio": ratio, "low": low, "high": high},
                **{"reach": REACH, "per_s": source.size / ours, "bare_per_s": source.size / bare},
            }
    return figures
