"""One shard of a cache: what frozen networks said of the samples of one tar.

    00000-1f2e3d4c5b6a.tar          KEY.safetensors: raw latents, and each encoder's words of each caption
    00000-1f2e3d4c5b6a.done.parquet where each sample lies, and what the shard was made from: written last

The name ends in the digest of the tar that it was made from, so a tar that changed has no shard here.
"""

import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
from torch import Tensor

from mmflow.data.container import UnreadableSample
from mmflow.data.index import write_whole
from mmflow.data.shard import read_range

DONE = ".done.parquet"
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CacheFull(ValueError):  # noqa: N818 - it is the state of a disk
    """There is no room left for a shard; nothing of it was kept."""


@dataclass(frozen=True)
class Done:
    """What a finished shard is."""

    tar: str
    """Name of the tar that it was made from, without a folder."""
    digest: str
    """Of every byte of that tar, as its index has it."""
    made_by: str
    """Digest of the cache's description."""
    samples: int
    seconds: float
    """That the networks worked, reading and decoding aside."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the latents and of each encoder's words."""
    failed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Samples that could not be read: reason and detail."""


@dataclass(frozen=True)
class Stored:
    """One sample as a cache has it."""

    captions: Mapping[str, str]
    """By name; all that there were."""
    tensors: Mapping[str, Tensor]
    """`latents`, and `ENCODER/CAPTION/states` and `.../pooled`, CAPTION being `caption_name` of the text."""


def shard_name(tar: str, digest: str) -> str:
    """What a tar's shard is called."""
    return f"{tar.rsplit('/', 1)[-1].removesuffix('.tar')}-{digest[:12]}"


def caption_name(caption: str) -> str:
    """Names a text by what it says, so that no other text's words are taken for it."""
    return hashlib.blake2b(caption.encode(errors="surrogateescape"), digest_size=12).hexdigest()


def pack(stored: Stored) -> bytes:
    """As a .safetensors file."""
    tensors = {name: tensor.contiguous() for name, tensor in stored.tensors.items() if tensor.numel()}
    return safetensors.torch.save(tensors, {"captions": json.dumps(dict(stored.captions), ensure_ascii=False)})


def unpack(data: bytes) -> Stored:
    """The inverse.

    Raises:
        UnreadableSample: if it is damaged.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + length])["__metadata__"]
        return Stored(json.loads(about["captions"]), safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UnreadableSample("cache", f"damaged: {error!r}") from error


class ShardWriter:
    """Writes one shard of a local cache: under another name until it is whole, its done marker last."""

    def __init__(self, folder: Path, name: str) -> None:
        self._tar, self._done = folder / f"{name}.tar", folder / f"{name}{DONE}"
        self._temporary = folder / f".{name}.{os.uname().nodename}.{os.getpid()}.part"
        self._rows: list[tuple[str, int, int, str]] = []

    def __enter__(self) -> "ShardWriter":
        self._stream = tarfile.open(self._temporary, "w", format=tarfile.USTAR_FORMAT)
        return self

    def add(self, key: str, data: bytes) -> None:
        """One sample."""
        info = tarfile.TarInfo(f"{key}.safetensors")
        info.size, info.mtime, info.mode = len(data), 0, 0o644
        try:
            self._stream.addfile(info, io.BytesIO(data))
        except OSError as error:
            self._refuse_full(error)
        offset = self._stream.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        self._rows.append((key, offset, len(data), hashlib.blake2b(data, digest_size=12).hexdigest()))

    def finish(self, done: Done) -> None:
        """Gives the shard its name, and then its marker."""
        columns = list(zip(*self._rows, strict=True)) or [(), (), (), ()]
        kinds = (("key", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("digest", pa.string()))
        schema = pa.schema(kinds, {"mmflow": json.dumps(asdict(done))})
        table = pa.table([pa.array(c, k) for c, (_, k) in zip(columns, kinds, strict=True)], schema=schema)
        marker = io.BytesIO()
        pq.write_table(table, marker, compression="zstd")
        try:
            self._stream.close()
            with self._temporary.open("rb") as written:
                os.fsync(written.fileno())
            self._temporary.replace(self._tar)
            write_whole(str(self._done), marker.getvalue())
        except OSError as error:
            self._refuse_full(error)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None and self._stream.fileobj is not None:
            self._stream.fileobj.close()  # not `close` of the tar, which would write once more
        self._temporary.unlink(missing_ok=True)

    def _refuse_full(self, error: OSError) -> None:
        if error.errno not in _FULL:
            raise error
        free = shutil.disk_usage(self._tar.parent).free
        raise CacheFull(
            f"{self._tar.parent}: no room left ({free / 1e6:.0f} MB free, and a quota may say less) while writing "
            f"{self._tar.name}, of which {len(self._rows)} samples were done. Nothing of it is kept, finished shards "
            "are; make room and run the same command again"
        ) from error


class ShardReader:
    """A finished shard.

    Raises:
        ValueError: if its marker is damaged.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._tar, target = f"{folder}/{name}.tar", f"{folder}/{name}{DONE}"
        try:
            with fsspec.open(target, "rb") as stream:
                table = pq.read_table(pa.BufferReader(stream.read()))
            self.done = Done(**json.loads(table.schema.metadata[b"mmflow"]))
            columns = (table.column(each).to_pylist() for each in ("key", "offset", "size", "digest"))
            self._rows = {key: (start, size, digest) for key, start, size, digest in zip(*columns, strict=True)}
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{target}: damaged ({error!r}). Delete it, and encode again") from error

    @property
    def keys(self) -> list[str]:
        """Of all samples that it holds, in their order."""
        return list(self._rows)

    def read(self, key: str, check: bool = False) -> Stored:
        """One sample.

        check  compare its digest, too

        Raises:
            UnreadableSample: if it could not be read when the cache was made, or cannot be now.
        """
        if key in self.done.failed:
            reason, detail = self.done.failed[key]
            raise UnreadableSample(reason, detail)
        if key not in self._rows:
            raise UnreadableSample("cache", f"{self._tar} has no sample {key}")
        start, size, digest = self._rows[key]
        data = read_range(self._tar, start, start + size)
        if check and hashlib.blake2b(data, digest_size=12).hexdigest() != digest:
            raise UnreadableSample("cache", f"{self._tar}: the bytes of {key} have changed")
        return unpack(data)
