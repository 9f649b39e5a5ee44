"""Which samples of which tars a source has, told from manifests and indexes."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from mmflow.data.index import ShardIndex, read_index
from mmflow.data.manifest import listed
from mmflow.data.shard import shard_names

Medium = Literal["picture", "clip"]
Part = Literal["all", "train", "held_out"]
MEDIA: tuple[Medium, ...] = ("picture", "clip")


def held_out(key: tuple[str | int, ...], percent: float = 1.0) -> bool:
    """Whether a sample belongs to the validation part that a hash chooses where no validation shards are given."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8, person=b"mmflow val").digest()
    return int.from_bytes(digest, "little") < percent / 100 * 2**64


@dataclass(frozen=True)
class Places:
    """How many samples of one medium are in which tars."""

    tars: tuple[str, ...]
    names: tuple[str, ...]
    """Of the tars in the samples' keys."""
    digests: tuple[str, ...]
    """Of the tars' bytes."""
    counts: Int[np.ndarray, " S"]
    uncaptioned: int
    part: Part
    listed: frozenset[int] = frozenset()
    """Tars, by number, that only a manifest has told of: whether they changed is still to be asked."""


def choose_places(name: str, tars: tuple[str, ...], part: Part) -> dict[Medium, Places]:
    """The pictures and the clips of shards, told from the manifests of their folders; of tars that these do not list,
    and where a part is asked for, from their indexes. No tar is opened.

    part  `all` samples, or only those that a hash of their key puts on one side of the 1 % held out for validation

    Raises:
        ValueError: if an index is missing or stale.
    """
    names = tuple(shard_names(tars).values())
    known = listed(tars) if part == "all" else {}
    counts = np.zeros((2, len(tars)), np.int64)
    mute: Counter[Medium] = Counter()
    digests = []
    for i, (tar, shard) in enumerate(zip(tars, names, strict=True)):
        if summary := known.get(tar):
            digests.append(summary.digest)
            counts[:, i] = summary.pictures, summary.clips
            mute.update({"picture": summary.uncaptioned_pictures, "clip": summary.uncaptioned_clips})
            continue
        index = read_index(tar)
        digests.append(index.state.digest)
        for row, medium in enumerate(MEDIA):
            places = places_in(index, medium, part, (name, shard))
            counts[row, i] = len(places)
            mute[medium] += int((index.column("caption_length")[places] == 0).sum())
    told = frozenset(i for i, tar in enumerate(tars) if tar in known)
    return {m: Places(tars, names, tuple(digests), c, mute[m], part, told) for m, c in zip(MEDIA, counts, strict=True)}


def places_in(index: ShardIndex, medium: Medium, part: Part, of: tuple[str, str]) -> Int[np.ndarray, " _"]:
    """Places in a tar's index of its samples of one medium and part; `of` begins their keys."""
    places: np.ndarray = np.flatnonzero(index.column("kind") == medium)
    if part == "all":
        return places
    held = [held_out((*of, key)) for key in index.column("key")[places]]
    chosen: np.ndarray = places[np.array(held, dtype=bool) == (part == "held_out")]
    return chosen
