"""Indexed shards that are nowhere: what a plan needs of them, and nothing else."""

import hashlib

import numpy as np
import pyarrow as pa

from mmflow.data.index import ShardIndex, TarState
from mmflow.data.places import Medium, Places
from mmflow.data.source import Framing, ShardSource

FRAMING = Framing(sizes=((32, 16), (16, 16), (16, 32)), frames=8, fps=8.0, random=True)
SIDES = ((40, 20), (30, 30), (20, 40))
"""Height and width of every third sample."""
Shards = dict[str, tuple[int, str]]
"""By name: samples, and what tells this content from another under the same name."""


def digest(name: str, content: str) -> str:
    return hashlib.blake2b(f"{name}{content}".encode(), digest_size=16).hexdigest()


def index_of(tar: str, size: int, of: str, medium: Medium) -> ShardIndex:
    """An index of `size` samples of one medium."""
    height, width = zip(*(SIDES[n % 3] for n in range(size)), strict=True)
    table = pa.table(
        {
            "key": [f"{n:09d}" for n in range(size)],
            "kind": [medium] * size,
            "height": np.array(height, np.int64),
            "width": np.array(width, np.int64),
            "duration": np.full(size, 0.0 if medium == "picture" else 10.0),
            "caption_length": np.arange(size, dtype=np.int64) * 7 % 200,
        }
    )
    return ShardIndex(tar, table, TarState(1, 0, "", of), ())


class Store:
    """Makes sources, and answers for the indexes of all of them in the place of `read_index`."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, str, Medium]] = {}

    def read_index(self, tar: str, check: bool = True) -> ShardIndex:
        return index_of(tar, *self._known[tar])

    def source(
        self, shards: Shards, medium: Medium = "picture", name: str = "shards", window: int = 2, seed: int = 0
    ) -> ShardSource:
        digests = [digest(shard, content) for shard, (_, content) in shards.items()]
        tars = tuple(f"/{medium}/{shard}-{of}.tar" for shard, of in zip(shards, digests, strict=True))
        for tar, of, (size, _) in zip(tars, digests, shards.values(), strict=True):
            self._known[tar] = size, of, medium
        counts = np.array([size for size, _ in shards.values()])
        return ShardSource(
            name, medium, Places(tars, tuple(shards), tuple(digests), counts, 0, "all"), FRAMING, seed, window
        )
