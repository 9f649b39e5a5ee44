"""What proxies and distances say of a store, kept in it: what was said before is not asked again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmflow.metrics.features import AbstractMediaFeatures, Floats, Frames
from mmflow.metrics.proxy import AbstractScorer, SetDistance, summary
from mmflow.metrics.store import Store

CHUNK = 64
"""Samples that are in memory at once."""
Rows = list[tuple[int, Any]]


@dataclass(frozen=True)
class Share:
    """This process's part of the work.

    Attributes:
        rank: of this process.
        world_size: processes.
        gather: all ranks' rows, on every rank.
    """

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Rows], Rows] = list

    def each(self, places: Sequence[int], of: Callable[[list[int]], Iterable[Any]]) -> dict[int, Any]:
        """What `of` says of each place, asked by one rank."""
        own = list(places)[self.rank :: self.world_size]
        made: Rows = []
        for start in range(0, len(own), CHUNK):
            part = own[start : start + CHUNK]
            made += list(zip(part, of(part), strict=True))
        return dict(self.gather(made))

    def rows(self, places: Sequence[int], of: Callable[[list[int]], Floats]) -> Floats:
        """One row per place, each made by one rank, in the order of the places."""
        by_place = self.each(places, of)
        return np.stack([by_place[place] for place in places])


def media_of(store: Store) -> dict[str, list[int]]:
    """Places of the pictures and of the clips that count: what asks for something held out of training does not."""
    found: dict[str, list[int]] = {}
    for place, asked in enumerate(store.asked):
        if not asked.metadata.get("held_out"):
            found.setdefault("" if asked.request.frames == 1 else "/clips", []).append(place)
    return found


def score_store(store: Store, proxy: AbstractScorer, share: Share) -> dict[str, dict[str, Any]]:
    """The proxy's mean over pictures and over clips, by name, with intervals; `/clips` ends the name of the latter.

    Raises:
        ValueError: if samples are missing or too many, the proxy's weights do not fit, or it judges clips only and
            there are none.
    """
    media = {suffix: some for suffix, some in media_of(store).items() if suffix or not proxy.clips_only}
    if not media:
        raise ValueError(f"{proxy.name} judges clips, and {store.folder} holds pictures only")
    kept = store.scores(proxy.name, proxy.identity())
    if kept is None:
        store.require_whole()
        prompts = store.prompts()
        places = [place for some in media.values() for place in some]

        def of(part: list[int]) -> Floats:
            return proxy.score([store.read(i) for i in part], [prompts[i] for i in part])

        values = dict(zip(places, share.rows(places, of).tolist(), strict=True))
        if share.rank == 0:
            said = [values.get(place) for place in range(len(store.asked))]
            store.keep_scores(proxy.name, proxy.identity(), {"values": said})
    else:
        values = {place: value for place, value in enumerate(kept["values"]) if value is not None}
    prompts = store.prompts()
    return {
        f"{proxy.name}{suffix}": dict(summary(np.array([values[i] for i in some]), [prompts[i] for i in some]))
        for suffix, some in media.items()
    }


@dataclass(frozen=True)
class Reference:
    """True pictures and clips that the made ones are compared with.

    Attributes:
        name: of what they are, for the identity of a distance.
        pictures, clips: uint8 (T, H, W, 3) each; made when they are asked for.
    """

    name: str
    pictures: Callable[[], Iterable[Frames]]
    clips: Callable[[], Iterable[Frames]]


def distance_of_store(
    store: Store, distance: SetDistance, reference: Reference, share: Share
) -> dict[str, dict[str, Any]]:
    """Frechet and kernel distance of pictures and of clips, by name; a medium with fewer than two of either has none.

    Raises:
        ValueError: if samples are missing or too many, or the network's weights do not fit.
    """
    identity = {**distance.identity(), "reference": reference.name}
    kept = store.scores(distance.name, identity)
    if kept is not None:
        return dict(kept["summary"])
    store.require_whole()
    found: dict[str, dict[str, Any]] = {}
    for suffix, places in media_of(store).items():
        if distance.features.clips_only and not suffix:
            continue
        true = list(reference.clips() if suffix else reference.pictures())
        if min(len(places), len(true)) < 2:
            continue
        made = share.rows(places, lambda part: distance.features.of([store.read(i) for i in part]))
        scores = distance(made, _features(distance.features, true))
        found |= {f"{name}{suffix}": dict(score) for name, score in scores.items()}
    if share.rank == 0:
        store.keep_scores(distance.name, identity, {"summary": found})
    return found


def _features(features: AbstractMediaFeatures, media: Sequence[Frames]) -> Floats:
    return np.concatenate([features.of(part) for part in _chunks(media)])


def _chunks(media: Sequence[Frames]) -> Iterator[Sequence[Frames]]:
    for start in range(0, len(media), CHUNK):
        yield media[start : start + CHUNK]
