"""How a run uses a cache: opened, filled or refused before anything is trained."""

from collections.abc import Container, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

from mmflow.data.cache import (
    DTYPES,
    LATENTS,
    NAME,
    Cache,
    CachedSource,
    CacheDtype,
    CacheMode,
    describe,
    tar_digests,
    weights_of,
)
from mmflow.data.encode import Encoding, Networks, Total, claim, fill
from mmflow.data.mix import Mix
from mmflow.data.source import AbstractSource, Framing, ShardSource

MARKERS = 8
"""Shards whose markers are read for what the cache saves."""


@runtime_checkable
class Frozen(Networks, Protocol):
    """The frozen networks of a run."""

    @property
    def autoencoder(self) -> Any:
        """The autoencoder."""

    @property
    def text(self) -> Any:
        """The text encoders."""

    def identities(self, whole: bool = False) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """Of the autoencoder and of each text encoder; `whole`: with digests of every byte of their weights."""

    def load(self, cached: Container[str] = ()) -> None:
        """Reads the weights of those that are not cached."""


@final
class CacheUse:
    """The cache of one run.

    Args:
        mode: `off`; `require` a whole one; or `fill` one first.
        folder: of the cache.
        framing: of the run's samples.
        gives_known: parts of their pixels are given to the model.
        dtype: that what is kept must have; None is that of the cache, and fp16 in a new one.

    Raises:
        ValueError: if there is no folder, or it is an URL and is to be filled.
    """

    def __init__(
        self,
        mode: CacheMode,
        folder: str | None,
        framing: Framing,
        gives_known: bool = False,
        dtype: CacheDtype | None = None,
    ) -> None:
        if mode != "off" and folder is None:
            raise ValueError(f"data.cache {mode} needs data.cache_folder, and data.train_shards: samples that repeat")
        if mode == "fill" and "://" in str(folder):
            raise ValueError(f"data.cache fill writes into a local folder, not into {folder}")
        self.mode, self.folder, self.framing = mode, folder, framing
        self.gives_known, self.dtype = gives_known, dtype
        self.cache: Cache | None = None

    def load(self, networks: Frozen, mix: Mix, workers: int, trainer: Any) -> None:
        """Opens the cache, and reads the weights of the networks whose words it does not have.

        Args:
            networks: of the run.
            mix: its shards.
            workers: processes that read, where it is filled.
            trainer: Lightning's; its ranks fill it together.

        Raises:
            ValueError: if it is missing, foreign, stale or incomplete; what differs is said.
        """
        if self.mode == "off":
            networks.load()
            return
        assert self.folder is not None
        digests = tar_digests(mix.tars())
        want = describe(*networks.identities(), self.framing, self._new_dtype, networks.text.hears_empty)
        if self.mode == "fill" and trainer.training:
            if trainer.is_global_zero:
                self._begin(networks)
            trainer.strategy.barrier()
            cache = self._opened(digests, want)
            if own := cache.missing[trainer.global_rank :: trainer.world_size]:
                networks.load()
                device = str(trainer.strategy.root_device)
                media = tuple(medium for medium, _ in mix.media())
                encoding = Encoding(Path(self.folder), cache.description, self.framing, media, 16, workers, device)
                fill(own, networks, encoding)
            trainer.strategy.barrier()
        self._open(networks, digests, want)

    @property
    def _new_dtype(self) -> str:
        return DTYPES[self.dtype or "fp16"]

    def _begin(self, networks: Frozen) -> None:
        """cache.json of a cache that is not there yet: of all networks, latents aside where crops are random."""
        assert self.folder is not None
        if (Path(self.folder) / NAME).exists():
            return
        networks.load()  # first: identities are those of weights that may just have been fetched
        autoencoder, text = networks.identities()
        latents = None if self.framing.random or self.gives_known else autoencoder
        made = describe(latents, text, self.framing, self._new_dtype, networks.text.hears_empty)
        made["whole"] = weights_of(*networks.identities(whole=True))
        made["normalisation"] = None if latents is None else networks.autoencoder.own_numbers()
        claim(Path(self.folder), made)

    def _opened(self, digests: Mapping[str, str], want: dict[str, Any]) -> Cache:
        assert self.folder is not None
        cache = Cache(self.folder, digests)
        cache.refuse_foreign(want)
        if self.dtype is not None and (have := cache.description["dtype"]) != DTYPES[self.dtype]:
            raise ValueError(
                f"the cache {self.folder} has numbers of {have}, data.cache_dtype says {self.dtype}: leave that out, "
                "or encode into another folder"
            )
        return cache

    def _open(self, networks: Frozen, digests: Mapping[str, str], want: dict[str, Any]) -> None:
        cache = self._opened(digests, want)
        if LATENTS in cache.parts and self.framing.random:
            raise ValueError(
                f"the cache {self.folder} has latents, whose crop is the middle one: set --data.crops middle, or keep "
                "only words of text encoders in it (encode --only)"
            )
        if LATENTS in cache.parts and self.gives_known:
            raise ValueError(
                f"the cache {self.folder} has latents of whole samples; what data.known gives is encoded from parts of "
                "their pixels, so keep only words of text encoders in it (encode --only), or take data.known out"
            )
        if self.mode == "require":
            cache.refuse_incomplete()
        if (numbers := cache.description.get("normalisation")) is not None:
            networks.autoencoder.take_numbers(*(tuple(n) if isinstance(n, list) else n for n in numbers))
        networks.load(() if cache.missing else cache.parts)
        self.cache = cache

    def wrap(self, sources: list[AbstractSource]) -> list[AbstractSource]:
        """Sources that take from the cache what it has."""
        if self.cache is None:
            return sources
        cache = self.cache
        return [CachedSource(s, cache) if isinstance(s, ShardSource) else s for s in sources]

    def lines(self, batch_size: int) -> list[str]:
        """What it has and what it saves, for people."""
        if self.cache is None:
            return []
        whole = "" if not self.cache.missing else f", {len(self.cache.missing)} shards are not in it and encoded online"
        total = Total()
        there = (tar for tar in self.cache.tars if tar not in self.cache.missing)
        for tar in islice(there, MARKERS):
            shard = self.cache.shard(tar)
            assert shard is not None
            total = total.plus(shard.done)
        return [f"cache: {self.folder} has {', '.join(self.cache.parts)}{whole}", *total.lines(batch_size)]
