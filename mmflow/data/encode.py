"""Runs frozen networks once over shards and keeps what they say: one shard of a cache per tar, whole or not at all."""

import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmflow.data.cache import BESIDE, LATENTS, NAME, Description, differences, digest, finished, read_description
from mmflow.data.cache_shard import CacheFull, Done, ShardWriter, Stored, caption_name, pack, shard_name
from mmflow.data.container import UnreadableSample
from mmflow.data.index import Row, read_index, write_whole
from mmflow.data.places import Medium
from mmflow.data.shard import read_about, read_caption, read_sample
from mmflow.data.source import Framing
from mmflow.data.transform import nearest_bucket
from mmflow.said import Said


@runtime_checkable
class Networks(Protocol):
    """The frozen networks, as a cache is made from them."""

    def encode_kept(self, pixels: Tensor) -> Tensor:
        """Raw latents of 8-bit pixels, or mean and log-variance of what they are drawn from."""

    def say(self, name: str, captions: list[str], device: torch.device | str) -> Said:
        """What one text encoder says of captions."""


@dataclass(frozen=True)
class Encoding:
    """What is made of every tar.

    Attributes:
        folder: of the cache; local.
        description: what becomes its cache.json.
        framing: how media become pixels; its crops are the middle ones.
        media: pictures, clips or both; samples of the other kind are passed over.
        batch_size: samples that go through a network at once.
        workers: processes that read and decode.
        device: that the networks work on.
    """

    folder: Path
    description: Description
    framing: Framing
    media: tuple[Medium, ...]
    batch_size: int = 16
    workers: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Read:
    """One sample, decoded as far as the cache needs it."""

    key: str
    frames: Tensor | None
    """`3 T H W`, 8 bits; None if no latents are made."""
    captions: Mapping[str, str]
    failure: tuple[str, str] | None = None


class _Chunks(Dataset[list[Read]]):
    """Chunks of neighbouring samples of one tar, decoded in the loader's processes."""

    def __init__(self, tar: str, rows: Sequence[Row], encoding: Encoding) -> None:
        self.tar, self.encoding = tar, encoding
        size = encoding.batch_size
        self.chunks = [rows[i : i + size] for i in range(0, len(rows), size)]

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> list[Read]:
        torch.set_num_threads(1)
        return [self._read(row) for row in self.chunks[number]]

    def _read(self, row: Row) -> Read:
        framing = self.encoding.framing
        try:
            mix = framing.captions
            about = None if mix.only_txt else read_about(self.tar, row)
            if self.encoding.description["latents"] is None:
                return Read(row.key, None, mix.read(read_caption(self.tar, row), about))
            media, txt = read_sample(self.tar, row)
            captions = mix.read(txt, about)
            length = 1 if row.kind == "picture" else framing.frames_for(np.array([row.duration]))[0]
            shape = (length, *nearest_bucket(row.height, row.width, framing.sizes))
            frames = framing.pixels(row.kind, media, shape)
        except UnreadableSample as error:
            return Read(row.key, None, {}, (error.reason, error.detail))
        return Read(row.key, torch.from_numpy(frames).permute(3, 0, 1, 2).contiguous(), captions)


@dataclass(frozen=True)
class Total:
    """What a cache, or a part of it, has cost."""

    samples: int = 0
    seconds: float = 0.0
    sizes: Mapping[str, int] | None = None
    failed: tuple[tuple[str, str, str], ...] = ()
    """(sample, reason, detail)."""

    def plus(self, done: Done) -> "Total":
        """With one shard more."""
        sizes = Counter(self.sizes or {}) + Counter(done.sizes)
        failed = tuple((f"{done.tar}: {key}", why[0], why[1]) for key, why in done.failed.items())
        return Total(self.samples + done.samples, self.seconds + done.seconds, sizes, self.failed + failed)

    def lines(self, batch_size: int | None = None) -> list[str]:
        """Bytes per sample, and the time that they save."""
        if not self.samples:
            return []
        each = {name: size / self.samples for name, size in (self.sizes or {}).items()}
        parts = ", ".join(f"{name} {size / 1000:.1f}" for name, size in each.items())
        took = self.seconds / self.samples
        step = "" if batch_size is None else f", {took * batch_size:.2f} s for a step of {batch_size}"
        return [
            f"{sum(each.values()) / 1000:.1f} kB per sample ({parts})",
            f"encoding took {took * 1000:.1f} ms per sample{step}: what a step from the cache saves",
        ]


def claim(folder: Path, description: Description) -> None:
    """Writes cache.json, or finds that it says the same.

    Raises:
        ValueError: if the folder holds another cache; the message says what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / NAME).exists():
        write_whole(str(folder / NAME), (json.dumps(description, indent=1) + "\n").encode())
        return
    have = read_description(str(folder))
    other = sorted(differences(_compared(have), _compared(description)))
    if other:
        raise ValueError(f"{folder} holds a cache that was made otherwise:\n  " + "\n  ".join(other))


def _compared(description: Description) -> Description:
    return {name: value for name, value in description.items() if name not in BESIDE}


def encode_tars(
    tars: Sequence[str], networks: Networks, encoding: Encoding, advance: Callable[[int], None] = lambda more: None
) -> Iterator[Done]:
    """Makes the shards that are not done yet, one after the other.

    Raises:
        ValueError: if an index is missing or stale, numbers overflow the cache's dtype, or (`CacheFull`) the disk is
            full.
    """
    there = finished(str(encoding.folder))
    for tar in tars:
        index = read_index(tar)
        name = shard_name(tar, index.state.digest)
        rows = [row for row in index.rows() if row.kind in encoding.media]
        if name in there:
            advance(len(rows))
            continue
        with ShardWriter(encoding.folder, name) as writer:
            done = _encode(tar, rows, networks, encoding, writer, advance)
            done = replace(done, digest=index.state.digest)
            writer.finish(done)
        yield done


def encode_some(
    tar: str, rows: Sequence[Row], networks: Networks, encoding: Encoding
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Key and tensors of samples of one tar, those left out that cannot be read; nothing is kept."""
    chunks = _Chunks(tar, rows, encoding)
    for number in range(len(chunks)):
        good = [each for each in chunks[number] if each.failure is None]
        yield from zip((each.key for each in good), _stored(good, networks, encoding), strict=True)


def _encode(
    tar: str,
    rows: Sequence[Row],
    networks: Networks,
    encoding: Encoding,
    writer: ShardWriter,
    advance: Callable[[int], None],
) -> Done:
    sizes: Counter[str] = Counter()
    failed: dict[str, tuple[str, str]] = {}
    seconds, samples = 0.0, 0
    loader = DataLoader(
        _Chunks(tar, rows, encoding),
        batch_size=None,
        num_workers=encoding.workers,
        multiprocessing_context="fork" if encoding.workers else None,
    )
    for chunk in loader:
        failed |= {each.key: each.failure for each in chunk if each.failure is not None}
        good = [each for each in chunk if each.failure is None]
        began = time.perf_counter()
        stored = _stored(good, networks, encoding)
        seconds += time.perf_counter() - began
        for each, tensors in zip(good, stored, strict=True):
            writer.add(each.key, pack(Stored(each.captions, tensors)))
            for name, tensor in tensors.items():
                sizes[name.split("/")[0]] += tensor.nbytes
        samples += len(good)
        advance(len(chunk))
    made_by = digest(encoding.description)
    return Done(tar.rsplit("/", 1)[-1], "", made_by, samples, seconds, dict(sizes), failed)


def _stored(chunk: list[Read], networks: Networks, encoding: Encoding) -> list[dict[str, Tensor]]:
    """The tensors of each sample, in the cache's dtype, on the host."""
    tensors: list[dict[str, Tensor]] = [{} for _ in chunk]
    numbered = [(i, each.frames) for i, each in enumerate(chunk) if each.frames is not None]
    for _, group in groupby(sorted(numbered, key=lambda x: (x[1].shape, x[0])), key=lambda x: x[1].shape):
        places, frames = zip(*group, strict=True)
        raw = _as(networks.encode_kept(torch.stack(frames).to(encoding.device)), encoding, LATENTS)
        for place, latents in zip(places, raw, strict=True):
            tensors[place][LATENTS] = latents.clone()
    every = [
        sorted(set(each.captions.values()) | ({""} if encoding.description["hears_empty"] else set())) for each in chunk
    ]
    spoken = sorted({caption for captions in every for caption in captions})
    for encoder in encoding.description["text"] if spoken else ():
        said = networks.say(encoder, spoken, encoding.device)
        states, pooled = (_as(x, encoding, encoder) for x in (said.states, said.pooled))
        pieces = dict(zip(spoken, zip(states.split(said.lengths.tolist()), pooled, strict=True), strict=True))
        for own, captions in zip(tensors, every, strict=True):
            for caption in captions:
                name = f"{encoder}/{caption_name(caption)}"
                own[f"{name}/states"], own[f"{name}/pooled"] = (x.clone() for x in pieces[caption])
    return tensors


def _as(x: Tensor, encoding: Encoding, what: str) -> Tensor:
    dtype: torch.dtype = getattr(torch, encoding.description["dtype"])
    found = x.detach().cpu().to(dtype)
    if not bool(found.isfinite().all()):
        small = x.isfinite().all()
        way = "--dtype bf16 holds them" if small else "the network itself gives them: try its dtype fp32"
        raise ValueError(f"{what}: numbers that {encoding.description['dtype']} cannot hold; {way}")
    return found


def fill(tars: Sequence[str], networks: Networks, encoding: Encoding) -> bool:
    """Makes what is missing; False, with a warning, if the disk is full before that."""
    try:
        for _ in encode_tars(tars, networks, encoding):
            pass
    except CacheFull as error:
        warnings.warn(f"{error}. What is not in the cache is encoded online", stacklevel=2)
        return False
    return True
