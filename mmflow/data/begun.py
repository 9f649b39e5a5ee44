"""Where each source of a new plan starts, so that no pass an earlier plan began repeats a sample.

Samples are told by the digest of their tar's bytes and their number among its pictures or clips, so a tar that was
renamed or moved to another group is known again. Of a tar that was written anew under its name it is not known which
of its samples were read: if any was, all of it waits for the next pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from mmflow.data.interleave import Interleave
from mmflow.data.order import Begun, ShuffledShards
from mmflow.data.source import AbstractSource, ShardSource

Numbers = Int[np.ndarray, " _"] | None
"""Samples of a shard that were taken; None is all."""


@dataclass(frozen=True)
class Start:
    """Where a source starts in a plan.

    Attributes:
        nth: samples of its order to pass over.
        begun: the pass with which its order begins, where that is not its first.
    """

    nth: int = 0
    begun: Begun | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values; the numbers of samples as bits, in hexadecimal."""
        if self.begun is None:
            return {"nth": self.nth, "visit": None, "taken": {}}
        taken = {str(shard): None if n is None else _bits(n) for shard, n in sorted(self.begun.taken.items())}
        return {"nth": self.nth, "visit": self.begun.visit, "taken": taken}

    @staticmethod
    def of_json(values: dict[str, Any]) -> "Start":
        """The reverse."""
        if values["visit"] is None:
            return Start(values["nth"])
        taken = {int(shard): None if bits is None else _numbers(bits) for shard, bits in values["taken"].items()}
        return Start(values["nth"], Begun(values["visit"], taken))


def _bits(numbers: Int[np.ndarray, " _"]) -> str:
    bits = np.zeros(int(numbers.max()) + 1 if len(numbers) else 0, bool)
    bits[numbers] = True
    return np.packbits(bits).tobytes().hex()


def _numbers(bits: str) -> Int[np.ndarray, " _"]:
    return np.flatnonzero(np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8)))


def sources_of(sources: Sequence[AbstractSource]) -> list[dict[str, Any]]:
    """What the orders of sources depend on, in plain values."""
    described = []
    for source in sources:
        own: dict[str, Any] = {"name": source.name, "medium": source.medium}
        if isinstance(source, ShardSource):
            places = source.places
            shards = zip(places.names, places.digests, places.counts.tolist(), strict=True)
            own |= {"part": places.part, "window": source.order.window, "shards": [list(shard) for shard in shards]}
        described.append(own)
    return described


@dataclass(frozen=True)
class Had:
    """What a pass has had of a shard; of a source without shards, how many samples it has given."""

    visit: int
    size: int
    numbers: Numbers

    @property
    def any(self) -> bool:
        return self.numbers is None or len(self.numbers) > 0

    def whole(self) -> "Had":
        """The same pass, with all of the shard taken if some of it was."""
        return Had(self.visit, self.size, None if self.any else np.empty(0, np.int64))

    def as_json(self) -> list[Any]:
        """Plain values."""
        return [self.visit, self.size, None if self.numbers is None else _bits(self.numbers)]

    @staticmethod
    def of_json(values: list[Any]) -> "Had":
        """The reverse."""
        visit, size, bits = values
        return Had(visit, size, None if bits is None else _numbers(bits))


Name = tuple[str, str, str, str]
"""(source, shard, digest, medium); shard and digest are empty for a source without shards."""
Memory = dict[Name, Had]


def carried(
    about: dict[str, Any], starts: Sequence[Start], taken: int, memory: Memory, sources: Sequence[AbstractSource]
) -> tuple[list[Start], Memory]:
    """Where the sources of a new plan start, and what is to be remembered of shards that it does not have: they may
    come back.

    Args:
        about: of the earlier plan.
        starts: of its sources.
        taken: positions that it was used for.
        memory: of shards that it did not have.
        sources: of the new plan.
    """
    counts, earlier = Interleave(about["weights"]).counts(taken), about["sources"]
    reached = [Start(start.nth + count, start.begun) for start, count in zip(starts, counts, strict=True)]
    had = memory | dict(_had(about["seed"], earlier, reached))
    described = sources_of(sources)
    begun = _Begun(had)
    after = [
        reached[earlier.index(own)] if own in earlier else begun.start(source)
        for source, own in zip(sources, described, strict=True)
    ]
    there = {(own["name"], *shard[:2], own["medium"]) for own in described for shard in own.get("shards", [["", ""]])}
    return after, {name: each for name, each in had.items() if name not in there and each.any}


def _had(seed: int, earlier: list[dict[str, Any]], reached: list[Start]) -> Iterator[tuple[Name, Had]]:
    """Of every shard, what its source's present pass has had of it."""
    for own, start in zip(earlier, reached, strict=True):
        if "shards" not in own:
            yield (own["name"], "", "", own["medium"]), Had(start.nth, 0, None)
            continue
        sizes = [size for *_, size in own["shards"]]
        order = ShuffledShards(sizes, seed, f"{own['name']}/{own['medium']}", own["window"], start.begun)
        now = order.after(start.nth)
        for i, (shard, digest, size) in enumerate(own["shards"]):
            numbers = now.taken.get(i, np.empty(0, np.int64))
            yield (own["name"], shard, digest, own["medium"]), Had(now.visit, size, numbers)


class _Begun:
    """Passes of new sources, from what was had of their shards."""

    def __init__(self, had: Memory) -> None:
        self._had = had
        self._moved = {(digest, medium): each for (_, _, digest, medium), each in had.items() if digest}
        self._rewritten = {(name, shard, medium): each for (name, shard, _, medium), each in had.items()}

    def start(self, source: AbstractSource) -> Start:
        """The pass that a source goes on with: the furthest that any of its shards is in. Shards that are behind, or
        new, have all their samples in it.
        """
        if not isinstance(source, ShardSource):
            before = self._had.get((source.name, "", "", source.medium))
            return Start(0 if before is None else before.visit)
        places = source.places
        shards = zip(places.names, places.digests, places.counts.tolist(), strict=True)
        known = {i: each for i, shard in enumerate(shards) if (each := self._of(source, *shard)) is not None}
        if not known:
            return Start()
        visit = max(each.visit for each in known.values())
        return Start(
            0, Begun(visit, {i: each.numbers for i, each in known.items() if each.visit == visit and each.any})
        )

    def _of(self, source: ShardSource, shard: str, digest: str, size: int) -> Had | None:
        medium = source.medium
        same = self._had.get((source.name, shard, digest, medium)) or self._moved.get((digest, medium))
        if same is not None:
            return same if same.size == size else same.whole()
        rewritten = self._rewritten.get((source.name, shard, medium))
        return None if rewritten is None else rewritten.whole()
