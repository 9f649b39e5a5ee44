"""Which sources a run reads, at which shares: the shapes world, or shards."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from mmflow.batch import Request
from mmflow.data.accounts import Fates, accounts
from mmflow.data.decode import UnreadableSample
from mmflow.data.exclude import NOTHING, Excluded
from mmflow.data.interleave import Interleave
from mmflow.data.places import Medium, Part, choose_places
from mmflow.data.shard import expand_shards
from mmflow.data.source import AbstractSource, Framing, ShapesSource, ShardSource
from mmflow.data.store import DIRECT, Store
from mmflow.shapes.world import World

Sources = tuple[list[AbstractSource], list[float]]
"""Sources and their weights."""


@dataclass(frozen=True)
class ShardGroup:
    """Shards with a share of the samples.

    Args:
        shards: a folder, glob, brace list, or a list of these.
        weight: share of its pictures among all pictures, and of its clips among all clips, relative to the weights of
            the other groups that have such. (Pictures against clips: clip_share.)
    """

    shards: str | list[str]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"the weight of shards {self.shards!r} must be positive, got {self.weight}")


Shards = str | list[str] | list[ShardGroup] | None
"""Shards as they are configured."""


def groups_of(shards: str | list[str] | list[ShardGroup]) -> list[tuple[str, ShardGroup]]:
    """Named groups; patterns without weights are one. Names are part of the samples' keys, and say nothing of where
    the shards lie.

    Raises:
        ValueError: if there are none, or weights are stated of some patterns only.
    """
    if isinstance(shards, str) and shards.lstrip().startswith("["):  # what no list could be made of is left as text
        raise ValueError(f"shards {shards}: its entries are patterns, or have the keys shards and weight and no other")
    listed = [shards] if isinstance(shards, str) else shards
    groups = [each for each in listed if isinstance(each, ShardGroup)]
    patterns = [each for each in listed if isinstance(each, str)]
    if groups and patterns:
        raise ValueError(f"shards {patterns[0]!r} stand without a weight among others with one: give it a weight too")
    if not groups:
        groups = [ShardGroup(patterns)]
    return [("shards" if n == 1 else f"shards-{n}", group) for n, group in enumerate(groups, 1)]


@dataclass(frozen=True)
class Mix:
    """The data of a run.

    Attributes:
        world: read where no shards are given.
        train_shards: the training shards.
        val_shards: the validation shards; without them 1 % of the training samples is held out.
        clip_share: share of clips among the samples.
        framing: shapes of the samples.
        seed: of the order, crops and first frames.
        store: how tars are read that lie elsewhere.
        excluded: samples not to use.
    """

    world: World
    train_shards: Shards
    val_shards: Shards
    clip_share: float
    framing: Framing
    seed: int
    store: Store = DIRECT
    excluded: Excluded = NOTHING

    def media(self) -> list[tuple[Medium, float]]:
        """The media that are asked for, with their shares."""
        shares: list[tuple[Medium, float]] = [("picture", 1 - self.clip_share), ("clip", self.clip_share)]
        return [(medium, share) for medium, share in shares if share > 0]

    def shapes(self) -> list[tuple[int, int, int]]:
        """Every (T, H, W) in pixels that a sample can have."""
        lengths = {"picture": (1,), "clip": self.framing.legal_frames}
        return [(n, *size) for medium, _ in self.media() for n in lengths[medium] for size in self.framing.sizes]

    def name(self) -> str:
        """What the order depends on: the world or the patterns of the shards."""
        if self.train_shards is None:
            return json.dumps(dataclasses.asdict(self.world))
        listed = [self.train_shards] if isinstance(self.train_shards, str) else self.train_shards
        plain = [dataclasses.asdict(each) if isinstance(each, ShardGroup) else each for each in listed]
        return json.dumps(plain[0] if isinstance(self.train_shards, str) else plain)

    def accounts(self, fates: Fates, position: int) -> dict[str, Any]:
        """What became of every item of the training shards; see `accounts.accounts`."""
        return accounts(self.train[0], fates, position)

    def tars(self) -> list[str]:
        """Every tar of training and validation."""
        patterns = [each for each in (self.train_shards, self.val_shards) if each is not None]
        groups = [group for each in patterns for _, group in groups_of(each)]
        return list(dict.fromkeys(tar for group in groups for tar in expand_shards(group.shards)))

    @cached_property
    def train(self) -> Sources:
        """The sources of training; media that the shards do not hold are left out, with a warning.

        Raises:
            ValueError: if shards are missing, stale, or hold nothing that is asked for.
        """
        if self.train_shards is None:
            return self._shapes("train")
        sources, shares = self._of_shards(self.train_shards, "all" if self.val_shards is not None else "train", True)
        if not sources:
            asked = f"no sample of the asked media (clip_share {self.clip_share})"
            raise ValueError(f"data.train_shards {self.name()}: {asked}")
        for medium, share in self.media():
            if all(source.medium != medium for source in sources):
                rank_zero_warn(f"{self.name()} holds no {medium}s: their {share:.0%} go to the others")
        return sources, shares

    @cached_property
    def val(self) -> Sources:
        """The sources of validation, whose crops and first frames are the middle ones."""
        if self.train_shards is None:
            return self._shapes("val_iid")
        if self.val_shards is not None:
            return self._of_shards(self.val_shards, "all", False)
        return self._of_shards(self.train_shards, "held_out", False)

    def _shapes(self, split: str) -> Sources:
        media = self.media()
        return [ShapesSource(self.world, split, m, self.seed) for m, _ in media], [share for _, share in media]

    def _of_shards(self, shards: str | list[str] | list[ShardGroup], part: Part, random: bool) -> Sources:
        """A source for every group and medium that has samples. Each medium's share goes to the groups that hold it, by
        their weights.
        """
        framing = dataclasses.replace(self.framing, random=random and self.framing.random)
        groups = groups_of(shards)
        tars = [tuple(expand_shards(group.shards)) for _, group in groups]
        repeated = [tar for tar, number in Counter(itertools.chain(*tars)).items() if number > 1]
        if repeated:
            raise ValueError(f"{repeated[0]} is in two groups of shards: name each tar once")
        places = [choose_places(name, some, part) for (name, _), some in zip(groups, tars, strict=True)]
        sources: list[AbstractSource] = []
        shares: list[float] = []
        for medium, share in self.media():
            for (name, group), found in zip(groups, places, strict=True):
                source = ShardSource(name, medium, found[medium], framing, self.seed, store=self.store)
                holders = [g.weight for (_, g), f in zip(groups, places, strict=True) if f[medium].counts.any()]
                if source.size:
                    sources.append(source)
                    shares.append(share * group.weight / sum(holders))
        return sources, shares

    def preview_requests(self, num_pictures: int, num_clips: int, seed: int) -> list[Request]:
        """Captions of validation samples, with the shape of each: the prompts of previews."""
        left: dict[str, int] = {"picture": num_pictures, "clip": num_clips}
        requests: list[Request] = []
        # A small set holds few samples out; training's own captions fill up what is left.
        for source in [*self.val[0], *self.train[0]]:
            for nth in range(left[source.medium] if source.size is None else min(left[source.medium], source.size)):
                item = source.locate(0, nth, nth)
                if self.excluded(item):
                    continue
                try:
                    caption = source.caption(item)
                except UnreadableSample:
                    continue
                # A caption that comes again gets another seed, or its tile would show the same picture.
                again = sum(request.prompt == caption for request in requests)
                requests.append(Request(len(requests), caption, seed + again, *item.shape))
                left[source.medium] -= 1
        return requests

    def held_out(self, medium: Medium, num: int) -> Iterator[NDArray[np.uint8]]:
        """Frames (T, H, W, 3) of at most `num` validation samples of a medium, those that can be read."""
        for source in self.val[0]:
            if source.medium != medium:
                continue
            for nth in range(num if source.size is None else min(num, source.size)):
                try:
                    frames = source.read(source.locate(0, nth, nth)).frames
                except UnreadableSample:
                    continue
                num -= 1
                yield frames

    def describe(self) -> list[str]:
        """What is trained on, in a few lines for people."""
        if self.train_shards is None:
            return [f"data: the shapes world, {1 - self.clip_share:.0%} pictures and {self.clip_share:.0%} clips"]
        sources, shares = self.train
        named = dict(groups_of(self.train_shards))
        lines = []
        for source, share in zip(sources, shares, strict=True):
            of = f" of {named[source.name].shards}" if len(named) > 1 else ""
            without = f" ({source.uncaptioned} without a caption)" if source.uncaptioned else ""
            lines.append(f"data: {source.size} {source.medium}s{without}{of}, {share / sum(shares):.0%} of each step")
        if self.val_shards is None:
            sizes: Counter[str] = Counter()
            for source in self.val[0]:
                sizes[source.medium] += source.size or 0
            held = " and ".join(f"{number} {medium}s" for medium, number in sizes.items())
            lines.append(f"validation: no data.val_shards, so a hash-chosen 1 % is held out: {held or 'nothing'}")
        return lines


def shares_of(num: int, sources: Sequence[AbstractSource], weights: Sequence[float]) -> list[int]:
    """How many of `num` samples each source gives: its share, and no more than it has."""
    if not sources:
        return []
    interleave = Interleave(weights)
    shares = Counter(interleave(position)[0] for position in range(num))
    return [shares[i] if source.size is None else min(shares[i], source.size) for i, source in enumerate(sources)]
