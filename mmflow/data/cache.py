"""A cache of what frozen networks say of shards: what it was made with, what of it can be used, and its samples.

`cache.json` describes it. Latents and words are used only if everything that they depend on is the same now: the bytes
of the tar, the weights, the arithmetic, and for latents the buckets and how pixels are made. Else the cache is refused,
with what differs.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Literal, final

import fsspec
import numpy as np
import torch

from mmflow.batch import Sample
from mmflow.data.cache_shard import DONE, ShardReader, Stored, caption_name, shard_name
from mmflow.data.container import UnreadableSample
from mmflow.data.index import read_index
from mmflow.data.manifest import listed
from mmflow.data.plan import Item
from mmflow.data.source import AbstractSource, Framing, ShardSource
from mmflow.said import Recalled, Said

FORMAT = 1
PREPROCESSING = 1
"""Of decoding, resizing and cropping; to be raised when the same file no longer gives the same pixels."""
NAME = "cache.json"
LATENTS = "latents"
BESIDE = ("normalisation", "whole")
"""What cache.json says beside the description: shift and scale that come with the weights, and digests of every byte of
the weights, which `verify --config` compares."""
CacheMode = Literal["require", "fill", "off"]
CacheDtype = Literal["fp16", "bf16", "fp32"]
DTYPES: Mapping[CacheDtype, str] = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
Description = dict[str, Any]


def describe(
    latents: Mapping[str, Any] | None, text: Mapping[str, Any], framing: Framing, dtype: str, hears_empty: bool
) -> Description:
    """What a cache holds and everything that this depends on.

    latents      identity of the autoencoder, if they are cached
    text         identities of the encoders whose words are cached
    hears_empty  whether empty captions are encoded like others
    """
    about: Description = {"format": FORMAT, "dtype": dtype, "captions": list(framing.captions.names), "latents": None}
    about["text"] = {name: dict(identity) for name, identity in text.items()}
    about["hears_empty"] = hears_empty
    if latents is not None:
        about["latents"] = {
            "encoder": dict(latents),
            "preprocessing": PREPROCESSING,
            "buckets": framing.sizes,
            "frames": framing.legal_frames,
            "fps": framing.fps,
            "background": framing.background,
            "crop": "middle",
        }
    found: Description = json.loads(json.dumps(about))
    return found


def digest(description: Description) -> str:
    """Names a description; shards say which they were made under."""
    told = {name: value for name, value in description.items() if name not in BESIDE}
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()


def weights_of(latents: Mapping[str, Any], text: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """Digests of the weights by part, of identities; those left out that have no weights."""
    named = {LATENTS: latents, **text}
    return {name: identity["weights"] for name, identity in named.items() if "weights" in identity}


def differences(have: Any, want: Any, where: str = "") -> Iterator[str]:
    """What is another, one line each. Weights that are not on this machine are told by their path alone."""
    if not (isinstance(have, dict) and isinstance(want, dict)):
        if have != want:
            yield f"{where}: {_short(have)} in the cache, {_short(want)} now"
        return
    unknown = {name for name in ("weights", "tokenizer") if name in want and want[name] is None}
    skipped = unknown or {"path"}
    for name in have.keys() | want.keys():
        if name not in skipped:
            yield from differences(have.get(name), want.get(name), f"{where}.{name}" if where else name)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_description(folder: str) -> Description:
    """cache.json.

    Raises:
        ValueError: if there is none, it is damaged, or of another format.
    """
    path = f"{folder}/{NAME}"
    try:
        with fsspec.open(path, "rb") as stream:
            found: Description = json.loads(stream.read())
        if found["format"] != FORMAT:
            raise ValueError(f"{path}: format {found['format']}, this mmflow reads {FORMAT}: encode into a new folder")
    except FileNotFoundError as error:
        raise ValueError(f"{folder}: no cache: it has no {NAME}. {_way_out(folder)}") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({error!r})") from error
    return found


def _way_out(folder: str) -> str:
    return f"Make it: python tools/shards.py encode --config CONFIG {folder}"


def finished(folder: str) -> set[str]:
    """Names of the shards that are done, by one look at the folder."""
    files, path = fsspec.url_to_fs(folder)
    return {each.rsplit("/", 1)[-1].removesuffix(DONE) for each in files.glob(f"{path}/*{DONE}")}


def tar_digests(tars: Sequence[str]) -> dict[str, str]:
    """Of every byte of each tar, as manifests and indexes have it."""
    known = listed(tars)
    return {tar: known[tar].digest if tar in known else read_index(tar, check=False).state.digest for tar in tars}


@final
class Cache:
    """An opened cache.

    Args:
        folder: a path or a URL.
        digests: of the tars that a run reads.
    """

    def __init__(self, folder: str, digests: Mapping[str, str]) -> None:
        self.folder, self.description = folder.rstrip("/"), read_description(folder.rstrip("/"))
        self.dtype: torch.dtype = getattr(torch, self.description["dtype"])
        self.names = {tar: shard_name(tar, of) for tar, of in digests.items()}
        done = finished(self.folder)
        self.missing = [tar for tar, name in self.names.items() if name not in done]
        self._made_by = digest(self.description)
        self._shard = lru_cache(maxsize=64)(partial(ShardReader, self.folder))

    @property
    def parts(self) -> tuple[str, ...]:
        """What it holds: `latents`, and names of text encoders."""
        latents = (LATENTS,) if self.description["latents"] is not None else ()
        return (*latents, *self.description["text"])

    def refuse_foreign(self, want: Description) -> None:
        """Raises ValueError, saying what differs, if what it holds was not made as the run would make it.

        want  of everything that the run encodes
        """
        changed: list[str] = []
        for name in self.parts:
            kind, have = ("latents", self.description["latents"]) if name == LATENTS else (f"text.{name}", None)
            have = self.description["text"][name] if have is None else have
            now = want["latents"] if name == LATENTS else want["text"].get(name)
            changed += [f"{kind}: in the cache, not in this run"] if now is None else differences(have, now, kind)
        lacking = sorted(set(want["captions"]) - set(self.description["captions"]))
        if self.description["text"]:
            changed += differences(self.description["hears_empty"], want["hears_empty"], "text of empty captions")
        if lacking and self.description["text"]:
            changed.append(f"captions: {', '.join(lacking)} not in the cache")
        if changed:
            raise ValueError(
                f"the cache {self.folder} was made otherwise than this run would make it:\n  "
                + "\n  ".join(sorted(changed))
                + "\nEncode into another folder (python tools/shards.py encode --config CONFIG OUT), or run with "
                "--data.cache off"
            )

    def refuse_incomplete(self) -> None:
        """Raises ValueError if shards are missing, or were made from other bytes than the tar has now."""
        if not self.missing:
            return
        stale = [tar for tar in self.missing if any(self._is_of(name, tar) for name in finished(self.folder))]
        what = f"{stale[0]} changed since it was encoded" if stale else f"{self.missing[0]} is not in it"
        raise ValueError(
            f"the cache {self.folder} lacks {len(self.missing)} of {len(self.names)} shards: {what}. "
            f"{_way_out(self.folder)}, or let the run do so: --data.cache fill"
        )

    @staticmethod
    def _is_of(name: str, tar: str) -> bool:
        return name.rpartition("-")[0] == tar.rsplit("/", 1)[-1].removesuffix(".tar")

    def shard(self, tar: str) -> ShardReader | None:
        """A tar's shard; None if it is not done.

        Raises:
            ValueError: if it is damaged or was made under another description.
        """
        if tar in self.missing:
            return None
        shard = self._shard(self.names[tar])
        if shard.done.made_by != self._made_by:
            raise ValueError(f"{self.folder}/{self.names[tar]}: made under another {NAME}. Delete it and encode again")
        return shard

    @property
    def tars(self) -> list[str]:
        """That the run reads."""
        return list(self.names)

    def recalled(self, stored: Stored, caption: str) -> Recalled:
        """Of one sample with the caption that was drawn for it.

        Raises:
            UnreadableSample: if the caption is not in the cache.
        """
        said, name = {}, caption_name(caption)
        for encoder in self.description["text"] if caption.strip() or self.description["hears_empty"] else ():
            states = stored.tensors.get(f"{encoder}/{name}/states")
            if states is None:
                raise UnreadableSample("cache", f"{self.folder} has no words of {encoder} for {caption[:60]!r}")
            pooled = stored.tensors.get(f"{encoder}/{name}/pooled", states.new_zeros(0))
            said[encoder] = Said(states, torch.tensor([len(states)]), pooled[None])
        return Recalled(stored.tensors.get(LATENTS), said)


@final
class CachedSource(AbstractSource):
    """A source of shards that takes from a cache what that has.

    Args:
        source: which samples there are, and in which order.
        cache: opened.
    """

    def __init__(self, source: ShardSource, cache: Cache) -> None:
        self.name, self.size, self.medium, self.uncaptioned = (
            source.name,
            source.size,
            source.medium,
            source.uncaptioned,
        )
        self._source, self._cache = source, cache

    def locate(self, source: int, nth: int, position: int) -> Item:
        return self._source.locate(source, nth, position)

    def read(self, item: Item) -> Sample:
        tar, row = self._source._find(item.row)
        shard = self._cache.shard(tar)
        if shard is None:
            return self._source.read(item)
        stored = shard.read(row.key)
        if LATENTS in self._cache.parts:
            caption = self._source.draw_caption(item, stored.captions)
            blank = np.broadcast_to(np.uint8(0), (*item.shape, 3))
            fate, framed = self._source.framing.told(row, item.shape)
            recalled = self._cache.recalled(stored, caption)
            return Sample(item.key, item.visit, blank, caption, recalled, fate, framed)
        sample = self._source.read(item)
        recalled = self._cache.recalled(stored, sample.caption)
        return replace(sample, recalled=recalled)

    def caption(self, item: Item) -> str:
        return self._source.caption(item)
