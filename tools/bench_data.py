"""Pictures and clips per second through the loader, against bare decoding, WebDataset's pipeline and a decord loop: a
group of tools/bench.py.

All sides decode, resize and randomly crop the same samples in this one process, in turn. The loader also finds each in
the plan and in the index, reads it from its tar, draws noise and u, and makes the batch.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
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
REACH, PEER_REACH = 0.9, 1.0
"""Of the speed of bare decoding, and of other libraries' ways, that the loader must reach."""


def _noise(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """Drifting blurred noise: about as hard to decode as photographs."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).filter(
        ImageFilter.GaussianBlur(2)
    )
    return np.stack([np.roll(np.asarray(image), 2 * n, 1) for n in range(frames)])


def _write(folder: Path) -> dict[Medium, Places]:
    """A tar of pictures, and one of clips."""
    pictures, clips = [], []
    for n in range(PICTURES):
        buffer = io.BytesIO()
        Image.fromarray(_noise(n, 1, 512, 640)[0]).save(buffer, "JPEG", quality=90)
        pictures.append(ShardSample(f"{n:09d}", "jpg", buffer.getvalue(), f"picture {n}"))
    for n in range(CLIPS):
        film = write_mp4(folder / "clip.mp4", _noise(n, 60, 288, 384), 24)
        clips.append(ShardSample(f"{n:09d}", "mp4", film.read_bytes(), f"clip {n}"))
    tars = tuple(str(folder / name) for name in ("00000.tar", "00001.tar"))
    for tar, samples in zip(tars, (pictures, clips), strict=True):
        write_shard(tar, samples)
        build_index(tar)
    return choose_places("bench", tars, "all")


def _through_loader(source: ShardSource) -> int:
    plan = Plan([source], [1.0], BATCH, end=source.size)
    reader = ShareReader([source], Draws(0, 0.1, True), lambda t, h, w: (16, t, h // 8, w // 8))
    return sum(
        len(batch) for batch in DataLoader(reader, sampler=ShareSampler(plan, 0, 0, Dealing(1)), batch_size=None)
    )


def _bare(medium: Medium, media: list[bytes]) -> int:
    rng = np.random.default_rng(0)
    for data in media:
        u, v, start = rng.random(3)
        frames = decode_picture(data) if medium == "picture" else decode_clip(data, FRAMING.frames, FRAMING.fps, start)
        resize_cover_crop(frames, FRAMING.sizes[0], (u, v))
    return len(media)


def _webdataset(tar: str) -> int:
    """Its own pipeline: samples of the tar, decoded by it, resized as ours are, in batches."""
    import webdataset as wds  # late: a peer that only this group needs

    rng = np.random.default_rng(0)

    def fit(picture: np.ndarray) -> np.ndarray:
        return resize_cover_crop(picture[None], FRAMING.sizes[0], tuple(rng.random(2)))

    samples = wds.WebDataset(tar, shardshuffle=False).decode("rgb8").to_tuple("jpg", "txt")
    return sum(len(pictures) for pictures, _ in samples.map_tuple(fit, str).batched(BATCH))


def _decord(media: list[bytes]) -> int:
    """A plain loop: one reader a clip, one `get_batch` of evenly spaced frames from a drawn one on."""
    import decord  # late: see above

    rng = np.random.default_rng(0)
    for data in media:
        u, v, start = rng.random(3)
        reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
        apart = reader.get_avg_fps() / FRAMING.fps
        first = start * (len(reader) - 1 - apart * (FRAMING.frames - 1))
        frames = reader.get_batch((first + apart * np.arange(FRAMING.frames)).round().astype(int)).asnumpy()
        resize_cover_crop(frames, FRAMING.sizes[0], (u, v))
    return len(media)


def _rows(source: ShardSource) -> list[int]:
    return [source.locate(0, nth, nth).row for nth in range(source.size or 0)]


def _seconds(work: Callable[[], int], clock: Callable[[], float], expected: int) -> float:
    start = clock()
    assert work() == expected
    return clock() - start


def data(rounds: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, dict[str, float]]:
    """All figures of the group, by name: medians in milliseconds, and the ratio peer / loader with its quartiles.

    clock  `time.process_time` where others use the machine: the seconds of a CPU
    """
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        places = _write(Path(folder))
        named: dict[Medium, str] = {"picture": "640x512 JPEGs", "clip": "16 frames of 384x288 H.264 clips"}
        for medium, what in named.items():
            source = ShardSource("bench", medium, places[medium], FRAMING, seed=0)
            size = len(media := [read_sample(*source._find(row))[0] for row in _rows(source)])
            peer = partial(_webdataset, f"{folder}/00000.tar") if medium == "picture" else partial(_decord, media)
            ways: dict[str, Callable[[], int]] = {
                "the loader": partial(_through_loader, source),
                "bare decoding": partial(_bare, medium, media),
                "WebDataset" if medium == "picture" else "a decord loop": peer,
            }
            took = [{name: _seconds(way, clock, size) for name, way in ways.items()} for _ in range(1 + rounds)][1:]
            for other in list(ways)[1:]:
                low, ratio, high = statistics.quantiles([each[other] / each["the loader"] for each in took], n=4)
                ours, theirs = (statistics.median(each[name] for each in took) for name in ("the loader", other))
                name = f"{what} to 256x256: {size / ours:.0f}/s, {other} {size / theirs:.0f}/s"
                figures[name] = {
                    **{"ours_ms": ours * 1e3, "peer_ms": theirs * 1e3, "ratio": ratio, "low": low, "high": high},
                    **{"reach": REACH if other == "bare decoding" else PEER_REACH},
                    **{"per_s": size / ours, "peer_per_s": size / theirs},
                }
    return figures
