"""Where samples come from: each source knows its own order, and reads a planned item."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
from jaxtyping import Float, UInt8
from torch.utils.data import get_worker_info

from mmflow import draws
from mmflow.batch import Sample
from mmflow.data.apart import take_apart
from mmflow.data.caption_mix import ONLY_TXT, CaptionMix
from mmflow.data.decode import CLOCK
from mmflow.data.index import Row, ShardIndex, read_index, refuse_changed
from mmflow.data.manifest import folder_of
from mmflow.data.order import WINDOW, Begun, ShuffledShards
from mmflow.data.pixels import Shot, take
from mmflow.data.places import Medium, Places, places_in
from mmflow.data.plan import Item
from mmflow.data.shard import read_about, read_caption, read_sample
from mmflow.data.store import DIRECT, Store
from mmflow.data.transform import Size, cut_away, nearest_buckets
from mmflow.shapes.world import World

_PLACE_BITS = 32
"""Of a sample's address, for its place in its tar; the rest is the tar's number."""


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


@dataclass(frozen=True)
class Framing:
    """How media of any size become samples of a few shapes.

    Attributes:
        sizes: legal (height, width) pairs; each sample goes to the one of nearest aspect.
        frames: of a clip; of the longest where there are several lengths.
        fps: of a clip; frames are picked by time.
        random: draw the crop and the first frame anew at each visit; else the middle, as validation wants it.
        background: red, green and blue under what is transparent.
        captions: which caption is taken.
        lengths: legal numbers of frames, ascending; a clip takes the most that its duration holds. () is `frames`.
        timeout: seconds for decoding a file, which loader's workers have done in a process apart; None: not apart.
    """

    sizes: tuple[Size, ...]
    frames: int
    fps: float
    random: bool
    background: tuple[int, int, int] = (255, 255, 255)
    captions: CaptionMix = ONLY_TXT
    timeout: float | None = None
    lengths: tuple[int, ...] = ()

    @property
    def legal_frames(self) -> tuple[int, ...]:
        """Numbers of frames that a clip can have, ascending."""
        return self.lengths or (self.frames,)

    def frames_for(self, durations: Float[np.ndarray, " n"]) -> list[int]:
        """Of clips that last so many seconds: the most that fit; the fewest where none do, which reading then tells."""
        legal = np.array(self.legal_frames)  # n frames span (n - 1) / fps; `pick_frames` wants a CLOCK more
        fitting = ((legal - 1) / self.fps)[None] + CLOCK < durations[:, None]
        return [int(n) for n in legal[np.maximum(fitting.sum(1) - 1, 0)]]

    def pixels(
        self,
        medium: Medium,
        media: bytes,
        shape: tuple[int, int, int],
        crop: tuple[float, float] = (0.5, 0.5),
        start: float = 0.5,
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """A media file as a sample of T x H x W pixels; `crop` and `start` in [0, 1) place it in what it has more.

        Raises:
            UnreadableSample: if it cannot be decoded.
        """
        shot = Shot(medium, shape[1:], crop, shape[0], self.fps, start, self.background)
        if self.timeout is None or get_worker_info() is None:
            return take(media, shot)
        return take_apart(media, shot, self.timeout)

    def told(
        self, row: Row, shape: tuple[int, int, int], crop: tuple[float, float] = (0.5, 0.5)
    ) -> tuple[str, tuple[float, float, float, float]]:
        """`fate` and `framed` of a sample, from what the index says of its file."""
        top, left, is_part = cut_away((row.height, row.width), shape[1:], crop)
        # A frame and a half more than is taken: a clip of exactly so many frames is whole.
        is_short = row.kind == "clip" and row.duration > (shape[0] + 0.5) / self.fps
        fate = "cut_short" if is_short else "cropped" if is_part else "whole"
        return fate, (float(row.height), float(row.width), top, left)


@dataclass(frozen=True)
class _Located:
    """The samples of one shuffle window, as a plan needs them."""

    first: int
    visit: int
    rows: list[int]
    keys: list[tuple[str, str]]
    """(shard, member) of each."""
    sizes: list[Size]
    frames: list[int]
    characters: list[int]


@final
class ShardSource(AbstractSource):
    """Pictures or clips of indexed WebDataset shards.

    A tar is opened when a sample of it is read, and never before; of the indexes only those of the shuffle window that
    is being read, and of the one before it, are in memory. Nothing else grows with the number of samples.

    Args:
        name: first part of the samples' keys.
        medium: pictures or clips.
        places: the samples; see `choose_places`.
        framing: what becomes of them.
        seed: of order, crops and first frames.
        window: tars per shuffle window.
        begun: a pass that an earlier order began.
        store: how tars are read that lie elsewhere.
    """

    def __init__(
        self,
        name: str,
        medium: Medium,
        places: Places,
        framing: Framing,
        seed: int,
        window: int = WINDOW,
        begun: Begun | None = None,
        store: Store = DIRECT,
    ) -> None:
        self.store = store
        self.name, self.medium, self.framing, self.seed, self.places = name, medium, framing, seed, places
        self.size, self.uncaptioned = int(places.counts.sum()), places.uncaptioned
        self.order = ShuffledShards(places.counts, seed, f"{name}/{medium}", window, begun)
        self._index = lru_cache(maxsize=2 * window)(self._read_index)
        self._last: _Located | None = None

    def going_on(self, begun: Begun) -> "ShardSource":
        """The same samples, in an order that first ends a pass already begun."""
        window = self.order.window
        return ShardSource(self.name, self.medium, self.places, self.framing, self.seed, window, begun, self.store)

    def _read_index(self, shard: int) -> ShardIndex:
        """Raises ValueError if the tar is not the one that was planned with; what is gone its samples tell."""
        tar = self.places.tars[shard]
        index = read_index(tar, check=False)
        if shard in self.places.listed:
            refuse_changed(tar, index.state, or_gone=False)
        if index.state.digest != self.places.digests[shard]:
            raise ValueError(
                f"{tar}: its index is of other bytes than {folder_of(tar)}/manifest.json or the start of this run "
                f"knows. Write both again: python tools/shards.py index {folder_of(tar)}"
            )
        return index

    def _located(self, nth: int) -> _Located:
        window, places = self.order.around(nth), self.places
        shards, place_of = window.shards, np.empty(len(window.shards), np.int64)
        columns: dict[str, np.ndarray] = {
            name: np.empty(len(shards), object) for name in ("key", "height", "width", "duration")
        }
        columns["caption_length"] = np.empty(len(shards), np.int64)
        for shard in np.unique(shards).tolist():
            index, here = self._index(shard), shards == shard
            chosen = places_in(index, self.medium, places.part, (self.name, places.names[shard]))
            if len(chosen) != places.counts[shard]:
                raise ValueError(
                    f"{places.tars[shard]}: {len(chosen)} {self.medium}s in its index, {places.counts[shard]} in "
                    f"manifest.json. Write both again: python tools/shards.py index {folder_of(places.tars[shard])}"
                )
            place_of[here] = chosen[window.numbers[here]]
            for name, column in columns.items():
                column[here] = index.column(name)[place_of[here]]
        heights, widths = columns["height"].astype(np.int64), columns["width"].astype(np.int64)
        durations = columns["duration"].astype(np.float64)
        names = [places.names[shard] for shard in shards.tolist()]
        return _Located(
            first=window.first,
            visit=window.visit,
            rows=((shards << _PLACE_BITS) | place_of).tolist(),
            keys=list(zip(names, columns["key"].tolist(), strict=True)),
            sizes=nearest_buckets(heights, widths, self.framing.sizes),
            frames=[1] * len(shards) if self.medium == "picture" else self.framing.frames_for(durations),
            characters=columns["caption_length"].tolist(),
        )

    def locate(self, source: int, nth: int, position: int) -> Item:
        located = self._last
        if located is None or not located.first <= nth < located.first + len(located.rows):
            located = self._last = self._located(nth)
        i = nth - located.first
        return Item(
            source,
            located.rows[i],
            located.visit,
            position,
            (self.name, *located.keys[i]),
            (located.frames[i], *located.sizes[i]),
            located.characters[i],
        )

    def _find(self, row: int) -> tuple[str, Row]:
        """The tar and the index row of this source's own address of a sample."""
        shard, place = row >> _PLACE_BITS, row & ((1 << _PLACE_BITS) - 1)
        return self.places.tars[shard], self._index(shard).row(place)

    def read(self, item: Item) -> Sample:
        tar, row = self._find(item.row)
        media, txt = read_sample(tar, row, self.store)
        crop, start = (0.5, 0.5), 0.5
        if self.framing.random:
            u, v = draws.uniform(self.seed, "crop", item.key, item.visit, (2,)).tolist()
            crop, start = (u, v), float(draws.uniform(self.seed, "start_frame", item.key, item.visit))
        frames = self.framing.pixels(self.medium, media, item.shape, crop, start)
        fate, framed = self.framing.told(row, item.shape, crop)
        caption = self.draw_caption(item, self._captions(tar, row, txt))
        return Sample(item.key, item.visit, frames, caption, fate=fate, framed=framed)

    def caption(self, item: Item) -> str:
        tar, row = self._find(item.row)
        return self.draw_caption(item, self._captions(tar, row, read_caption(tar, row, self.store)))

    def _captions(self, tar: str, row: Row, txt: str) -> dict[str, str]:
        mix = self.framing.captions
        return mix.read(txt, None if mix.only_txt else read_about(tar, row, self.store))

    def draw_caption(self, item: Item, captions: Mapping[str, str]) -> str:
        """The caption of this visit, of all that the sample has."""
        return self.framing.captions.draw(captions, self.seed, item.key, item.visit)
