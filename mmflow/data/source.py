"""Where samples come from: each source knows its own order, and reads a planned item."""

import bisect
import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal, final

import numpy as np

from mmflow import draws
from mmflow.batch import Sample
from mmflow.data.decode import decode_clip, decode_picture
from mmflow.data.index import Row, read_index
from mmflow.data.plan import Item
from mmflow.data.shard import read_sample, shard_names
from mmflow.data.transform import Size, nearest_bucket, resize_cover_crop
from mmflow.shapes.world import World

Medium = Literal["picture", "clip"]


class AbstractSource(ABC):
    """One stream of a plan's mix.

    Attributes:
        size: samples in one pass; None where the source never repeats.
        medium: pictures or clips.
    """

    size: int | None
    medium: Medium

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

    size = None

    def __init__(self, world: World, split: str, medium: Medium, seed: int) -> None:
        self.world, self.split, self.medium, self.seed = world, split, medium, seed

    def locate(self, source: int, nth: int, position: int) -> Item:
        frames = 1 if self.medium == "picture" else self.world.frames
        key = ("shapes", f"{self.split}/{self.medium}", str(nth))
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

    def __init__(self, sizes: tuple[int, ...], seed: int, name: str, window: int = 16) -> None:
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
    """

    sizes: tuple[Size, ...]
    frames: int
    fps: float
    random: bool


@final
class ShardSource(AbstractSource):
    """Pictures or clips of indexed WebDataset shards.

    Args:
        name: first part of the samples' keys.
        tars: the shards; each has its index beside it.
        medium: which of their samples belong to this source.
        part: `all` samples, or only those that a hash puts on one side of the 1 % held out for validation.
        framing: what becomes of them.
        seed: of order, crops and first frames.
    """

    def __init__(
        self,
        name: str,
        tars: tuple[str, ...],
        medium: Medium,
        part: Literal["all", "train", "held_out"],
        framing: Framing,
        seed: int,
    ) -> None:
        self.name, self.tars, self.medium, self.framing, self.seed = name, tars, medium, framing, seed
        self._shards = shard_names(tars)
        self._rows = [
            [row for row in read_index(tar).rows() if row.kind == medium and self._belongs(tar, row, part)]
            for tar in tars
        ]
        self.size = sum(map(len, self._rows))
        self._order = ShuffledShards(tuple(map(len, self._rows)), seed, f"{name}/{medium}")
        self._first = [0, *accumulate(map(len, self._rows))]

    def _key(self, tar: str, row: Row) -> tuple[str, str, str]:
        return self.name, self._shards[tar], row.key

    def _belongs(self, tar: str, row: Row, part: str) -> bool:
        return part == "all" or held_out(self._key(tar, row)) == (part == "held_out")

    def locate(self, source: int, nth: int, position: int) -> Item:
        shard, place, visit = self._order(nth)
        row = self._rows[shard][place]
        frames = 1 if self.medium == "picture" else self.framing.frames
        shape = (frames, *nearest_bucket(row.height, row.width, self.framing.sizes))
        return Item(source, self._first[shard] + place, visit, position, self._key(self.tars[shard], row), shape)

    def read(self, item: Item) -> Sample:
        shard = bisect.bisect_right(self._first, item.row) - 1
        media, caption = read_sample(self.tars[shard], self._rows[shard][item.row - self._first[shard]])
        crop, start = (0.5, 0.5), 0.5
        if self.framing.random:
            u, v = draws.uniform(self.seed, "crop", item.key, item.visit, (2,)).tolist()
            crop, start = (u, v), float(draws.uniform(self.seed, "start_frame", item.key, item.visit))
        if self.medium == "picture":
            frames = decode_picture(media)
        else:
            frames = decode_clip(media, self.framing.frames, self.framing.fps, start)
        return Sample(item.key, item.visit, resize_cover_crop(frames, item.shape[1:], crop), caption)

    def caption(self, item: Item) -> str:
        shard = bisect.bisect_right(self._first, item.row) - 1
        return read_sample(self.tars[shard], self._rows[shard][item.row - self._first[shard]])[1]


class LevelSource:
    """A source's samples in its first pass, each once per validation level; the level's index stands as the visit."""

    def __init__(self, source: AbstractSource, num_levels: int) -> None:
        self._source, self._num_levels = source, num_levels

    def locate(self, source: int, nth: int, position: int) -> Item:
        """The nth (sample, level) pair, levels fastest."""
        sample, level = divmod(nth, self._num_levels)
        item = self._source.locate(source, sample, position)
        return Item(source, item.row, level, position, item.key, item.shape)
