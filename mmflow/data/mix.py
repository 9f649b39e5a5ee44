"""Which sources a run reads, at which shares: the shapes world, or shards."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning.pytorch.utilities import rank_zero_warn

from mmflow.batch import Request
from mmflow.data.decode import UnreadableSample
from mmflow.data.plan import Interleave
from mmflow.data.shard import expand_shards
from mmflow.data.source import AbstractSource, Framing, Medium, ShapesSource, ShardSource
from mmflow.data.transform import Size
from mmflow.shapes.world import World

Part = Literal["train", "val"]
Sources = tuple[list[AbstractSource], list[float]]
"""Sources and their weights."""


@dataclass(frozen=True)
class Mix:
    """The data of a run.

    Attributes:
        world: read where no shards are given.
        train_shards: patterns of the training shards.
        val_shards: patterns of the validation shards; without them 1 % of the training samples is held out.
        clip_share: share of clips among the samples.
        sizes: legal (height, width) pairs.
        frames: of a clip.
        fps: of a clip.
        seed: of the order, crops and first frames.
    """

    world: World
    train_shards: str | list[str] | None
    val_shards: str | list[str] | None
    clip_share: float
    sizes: tuple[Size, ...]
    frames: int
    fps: float
    seed: int

    def media(self) -> list[tuple[Medium, float]]:
        """The media that are asked for, with their shares."""
        shares: list[tuple[Medium, float]] = [("picture", 1 - self.clip_share), ("clip", self.clip_share)]
        return [(medium, share) for medium, share in shares if share > 0]

    def shapes(self) -> list[tuple[int, int, int]]:
        """Every (T, H, W) in pixels that a sample can have."""
        frames = {"picture": 1, "clip": self.frames}
        return [(frames[medium], *size) for medium, _ in self.media() for size in self.sizes]

    def name(self) -> str:
        """What the order depends on: the world or the patterns of the shards."""
        return json.dumps(self.train_shards if self.train_shards else dataclasses.asdict(self.world))

    def sources(self, part: Part) -> Sources:
        """The sources of one part; media that the shards do not hold are left out, with a warning.

        Raises:
            ValueError: if shards are missing, stale, or hold nothing that is asked for.
        """
        if self.train_shards is None:
            split = "train" if part == "train" else "val_iid"
            pairs = self.media()
            return [ShapesSource(self.world, split, m, self.seed) for m, _ in pairs], [share for _, share in pairs]
        patterns = self.val_shards if part == "val" and self.val_shards is not None else self.train_shards
        tars = tuple(expand_shards(patterns))
        rows: Literal["all", "train", "held_out"] = "all"
        if self.val_shards is None:
            rows = "train" if part == "train" else "held_out"
        framing = Framing(self.sizes, self.frames, self.fps, random=part == "train")
        found = [(ShardSource("shards", tars, m, rows, framing, self.seed), share) for m, share in self.media()]
        kept = [(source, share) for source, share in found if source.size]
        if part == "train":
            if not kept:
                raise ValueError(
                    f"data.train_shards {patterns!r}: no sample of the asked media (clip_share {self.clip_share})"
                )
            for source, share in found:
                if not source.size:
                    rank_zero_warn(f"{patterns!r} holds no {source.medium}s: their {share:.0%} go to the others")
        return [source for source, _ in kept], [share for _, share in kept]

    def preview_requests(self, num_pictures: int, num_clips: int, seed: int) -> list[Request]:
        """Captions of validation samples, with the shape of each: the prompts of previews."""
        left: dict[str, int] = {"picture": num_pictures, "clip": num_clips}
        requests: list[Request] = []
        # A small set holds few samples out; training's own captions fill up what is left.
        for source in [*self.sources("val")[0], *self.sources("train")[0]]:
            for nth in range(left[source.medium] if source.size is None else min(left[source.medium], source.size)):
                item = source.locate(0, nth, nth)
                try:
                    caption = source.caption(item)
                except UnreadableSample:
                    continue
                requests.append(Request(len(requests), caption, seed, *item.shape))
                left[source.medium] -= 1
        return requests

    def describe(self) -> list[str]:
        """What is trained on, in a few lines for people."""
        if self.train_shards is None:
            return [f"data: the shapes world, {1 - self.clip_share:.0%} pictures and {self.clip_share:.0%} clips"]
        pairs = zip(*self.sources("train"), strict=True)
        lines = [f"data: {source.size} {source.medium}s, {share:.0%} of each step" for source, share in pairs]
        if self.val_shards is None:
            held = " and ".join(f"{source.size} {source.medium}s" for source in self.sources("val")[0])
            lines.append(f"validation: no data.val_shards, so a hash-chosen 1 % is held out: {held or 'nothing'}")
        return lines


def shares_of(num: int, sources: Sequence[AbstractSource], weights: Sequence[float]) -> list[int]:
    """How many of `num` samples each source gives: its share, and no more than it has."""
    if not sources:
        return []
    interleave = Interleave(weights)
    shares = Counter(interleave(position)[0] for position in range(num))
    return [shares[i] if source.size is None else min(shares[i], source.size) for i, source in enumerate(sources)]
