"""Where samples come from: each source knows its own order, and reads a planned item."""

import bisect
import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from typing import Literal, final

import numpy as np
from jaxtyping import Int

from mmflow import draws
from mmflow.batch import Sample
from mmflow.data.decode import decode_clip, decode_picture
from mmflow.data.index import Row, read_index
from mmflow.data.plan import Item
from mmflow.data.shard import read_sample, shard_names
from mmflow.data.transform import Size, nearest_bucket, resize_cover_crop
from mmflow.shapes.world import World

Medium = Literal["picture", "clip"]
Part = Literal["all", "train", "held_out"]
WINDOW = 16
"""Tars per shuffle window."""


class AbstractSource(ABC):
    """One stream of a plan's mix.

    Attributes:
        name: first part of its samples' keys.
        size: samples in one pass; None where the source never repeats.
        uncaptioned: how many of them have no caption.
        medium: pictures or clips.
    """

    name: str
    size: int | None
    medium: Medium
    uncaptioned: int = 0

    @abstractmethod
    def locate(self, source: int, nth: int, position: int) -> Item:
        """The nth sample, counted over all passes, in this source's order. From the index alone: nothing is read."""

    @abstractmethod
    def read(self, item: Item) -> Sample:
        """The decoded sample, cropped to `item.shape`.

        Raises:
            UnreadableSample: if the file is bad; the caller makes a hole of it.
        """

    @abstractmethod
    def caption(self, item: Item) -> str:
        """The caption alone, without decoding."""


@final
class ShapesSource(AbstractSource):
    """Pictures or clips of the shapes world: drawn on demand, never repeated.

    Args:
        world: vocabulary, canvas and mix.
        split: `train`, `val_iid` or a held-out split.
        medium: pictures or clips.
        seed: of the world; another seed is another data set.
    """

    name, size = "shapes", None

    def __init__(self, world: World, split: str, medium: Medium, seed: int) -> None:
        self.world, self.split, self.medium, self.seed = world, split, medium, seed

    def locate(self, source: int, nth: int, position: int) -> Item:
        frames = 1 if self.medium == "picture" else self.world.frames
        key = (self.name, f"{self.split}/{self.medium}", str(nth))
        return Item(source, nth, 0, position, key, (frames, self.world.size, self.world.size))

    def read(self, item: Item) -> Sample:
        draw = self.world.picture if self.medium == "picture" else self.world.clip
        drawn = draw(self.seed, self.split, item.row)
        return Sample(item.key, item.visit, drawn.frames, drawn.caption)

    def caption(self, item: Item) -> str:
        return self.read(item).caption


class ShuffledShards:
    """The order of a sharded source: shards permuted per pass, samples shuffled inside windows of shards.

    Args:
        sizes: samples of each shard.
        seed: of the order.
        name: of the source, so that two sources of one seed differ.
        window: shards per shuffle window; only the rows of one window are ever in memory.
    """

    def __init__(self, sizes: tuple[int, ...], seed: int, name: str, window: int = WINDOW) -> None:
        self.sizes, self.seed, self.name, self.window = sizes, seed, name, window
        self.total = sum(sizes)
        self._pass = lru_cache(maxsize=2)(self._shards_of_pass)
        self._rows = lru_cache(maxsize=2)(self._rows_of_window)

    def _shards_of_pass(self, visit: int) -> tuple[list[int], list[int]]:
        """(shards in the order of the pass, samples before the end of each window)."""
        rng = draws.generator(self.seed, "shards", (self.name,), visit)
        order = rng.permutation(len(self.sizes)).tolist()
        windows = [order[i : i + self.window] for i in range(0, len(order), self.window)]
        return order, list(accumulate(sum(self.sizes[s] for s in shards) for shards in windows))

    def _rows_of_window(self, visit: int, window: int) -> np.ndarray:
        """(n, 2) array of (shard, row) in their shuffled order."""
        shards = self._pass(visit)[0][window * self.window : (window + 1) * self.window]
        rows = np.concatenate([np.stack([np.full(n := self.sizes[s], s), np.arange(n)], 1) for s in shards])
        shuffled: np.ndarray = draws.generator(self.seed, "samples", (self.name, window), visit).permutation(rows)
        return shuffled

    def __call__(self, nth: int) -> tuple[int, int, int]:
        """(shard, row, visit) of the nth sample over all passes."""
        visit, within = divmod(nth, self.total)
        ends = self._pass(visit)[1]
        window = bisect.bisect_right(ends, within)
        shard, row = self._rows(visit, window)[within - (ends[window - 1] if window else 0)]
        return int(shard), int(row), visit


def held_out(key: tuple[str | int, ...], percent: float = 1.0) -> bool:
    """Whether a sample belongs to the validation part that a hash chooses where no validation shards are given."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8, person=b"mmflow val").digest()
    return int.from_bytes(digest, "little") < percent / 100 * 2**64


@dataclass(frozen=True)
class Framing:
    """How media of any size become samples of a few shapes.

    Attributes:
        sizes: legal (height, width) pairs; each sample goes to the one of nearest aspect.
        frames: of a clip.
        fps: of a clip; frames are picked by time.
        random: draw the crop and the first frame anew at each visit; else the middle, as validation wants it.
        background: red, green and blue under what is transparent.
    """

    sizes: tuple[Size, ...]
    frames: int
    fps: float
    random: bool
    background: tuple[int, int, int] = (255, 255, 255)


@dataclass(frozen=True)
class Places:
    """Which samples of which tars a source has: their places in the index of each."""

    tars: tuple[str, ...]
    rows: tuple[Int[np.ndarray, " _"], ...]
    uncaptioned: int


def choose_places(name: str, tars: tuple[str, ...], part: Part) -> dict[Medium, Places]:
    """The pictures and the clips of shards, told from their indexes; no tar is opened.

    part  `all` samples, or only those that a hash of their key puts on one side of the 1 % held out for validation

    Raises:
        ValueError: if an index is missing or stale.
    """
    shards = shard_names(tars)
    chosen: dict[Medium, list[np.ndarray]] = {"picture": [], "clip": []}
    uncaptioned: Counter[Medium] = Counter()
    for tar in tars:
        index = read_index(tar)
        belongs = np.ones(len(index), dtype=bool)
        if part != "all":
            keys = index.column("key")
            held = np.array([held_out((name, shards[tar], key)) for key in keys], dtype=bool)
            belongs = held if part == "held_out" else ~held
        for medium, rows in chosen.items():
            rows.append(np.flatnonzero(belongs & (index.column("kind") == medium)))
            uncaptioned[medium] += int((index.column("caption_length")[rows[-1]] == 0).sum())
    return {medium: Places(tars, tuple(rows), uncaptioned[medium]) for medium, rows in chosen.items()}


@final
class ShardSource(AbstractSource):
    """Pictures or clips of indexed WebDataset shards.

    A tar is opened when a sample of it is read, and never before; of the indexes only those of the shuffle window that
    is being read, and of the one before it, are in memory.

    Args:
        name: first part of the samples' keys.
        medium: pictures or clips.
        places: the samples; see `choose_places`.
        framing: what becomes of them.
        seed: of order, crops and first frames.
        window: tars per shuffle window.
    """

    def __init__(
        self, name: str, medium: Medium, places: Places, framing: Framing, seed: int, window: int = WINDOW
    ) -> None:
        self.name, self.medium, self.framing, self.seed = name, medium, framing, seed
        self._tars, self._rows = places.tars, places.rows
        self._names = shard_names(places.tars)
        sizes = tuple(map(len, places.rows))
        self.size, self.uncaptioned = sum(sizes), places.uncaptioned
        self._order = ShuffledShards(sizes, seed, f"{name}/{medium}", window)
        self._first = [0, *accumulate(sizes)]
        self._index = lru_cache(maxsize=2 * window)(partial(read_index, check=False))

    def _find(self, place: int) -> tuple[str, Row]:
        """The tar and the index row of this source's own address of a sample."""
        shard = bisect.bisect_right(self._first, place) - 1
        tar = self._tars[shard]
        return tar, self._index(tar).row(int(self._rows[shard][place - self._first[shard]]))

    def locate(self, source: int, nth: int, position: int) -> Item:
        shard, within, visit = self._order(nth)
        place = self._first[shard] + within
        tar, row = self._find(place)
        frames = 1 if self.medium == "picture" else self.framing.frames
        shape = (frames, *nearest_bucket(row.height, row.width, self.framing.sizes))
        return Item(source, place, visit, position, (self.name, self._names[tar], row.key), shape)

    def read(self, item: Item) -> Sample:
        framing = self.framing
        media, caption = read_sample(*self._find(item.row))
        crop, start = (0.5, 0.5), 0.5
        if framing.random:
            u, v = draws.uniform(self.seed, "crop", item.key, item.visit, (2,)).tolist()
            crop, start = (u, v), float(draws.uniform(self.seed, "start_frame", item.key, item.visit))
        if self.medium == "picture":
            frames = decode_picture(media, framing.background)
        else:
            frames = decode_clip(media, framing.frames, framing.fps, start, framing.background)
        return Sample(item.key, item.visit, resize_cover_crop(frames, item.shape[1:], crop), caption)

    def caption(self, item: Item) -> str:
        return read_sample(*self._find(item.row))[1]


class LevelSource:
    """A source's samples in its first pass, each once per validation level; the level's index stands as the visit."""

    def __init__(self, source: AbstractSource, num_levels: int) -> None:
        self._source, self._num_levels = source, num_levels

    def locate(self, source: int, nth: int, position: int) -> Item:
        """The nth (sample, level) pair, levels fastest."""
        sample, level = divmod(nth, self._num_levels)
        item = self._source.locate(source, sample, position)
        return Item(source, item.row, level, position, item.key, item.shape)
