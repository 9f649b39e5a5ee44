"""The index beside each tar: where every sample lies and what it is, so that order, packing and resume need no scan.

`00000.index.parquet` beside `00000.tar`: one row per readable sample, in the order of the tar, and in its schema's
metadata what the tar was when it was indexed and which samples were left out. A tar that changed since is an error.
"""

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmflow.data.decode import Kind
from mmflow.data.scan import ByteStream, scan_tar
from mmflow.data.scan import Row as Row
from mmflow.data.scan import Skipped as Skipped
from mmflow.data.store import DIRECT

FORMAT = 2
"""Of the index file; a reader refuses another."""
BLOCKS, BLOCK = 64, 4096
"""The fingerprint reads this many blocks of this many bytes, evenly spaced: 256 KiB whatever the size of the tar."""


_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), Kind: pa.string()}
_SCHEMA = pa.schema([(field.name, _TYPES[field.type]) for field in fields(Row)])


@dataclass(frozen=True)
class TarState:
    """What a tar was when it was indexed."""

    size: int
    mtime_ns: int
    """0 where the store has no such thing."""
    fingerprint: str
    """Of blocks spread over the tar: cheap, asked when only the time differs, as after a copy."""
    digest: str
    """BLAKE2b of every byte."""


@dataclass(frozen=True)
class ShardIndex:
    """A tar's index in memory: columns for planning, rows for reading."""

    tar: str
    table: pa.Table
    state: TarState
    skipped: tuple[Skipped, ...]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def row(self, place: int) -> Row:
        """The row at a place, in the order of the tar."""
        return Row(*(column[place] if column.dtype == object else column[place].item() for column in self._columns))

    @cached_property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return tuple(map(self.column, self.table.column_names))

    def rows(self) -> Iterator[Row]:
        """All rows, in the order of the tar."""
        return (Row(**values) for values in self.table.to_pylist())

    def column(self, name: str) -> np.ndarray:
        """One field of all rows, e.g. `column("frames")`."""
        column: np.ndarray = self.table.column(name).to_numpy()
        return column

    def places(self, kind: Kind) -> np.ndarray:
        """Places of the pictures or of the clips."""
        return np.flatnonzero(self.column("kind") == kind)


def index_path(tar: str) -> str:
    """Where a tar's index lies.

    Raises:
        ValueError: if the name does not end in `.tar` (a compressed tar cannot be read by offsets).
    """
    if not tar.endswith(".tar"):
        raise ValueError(
            f"{tar}: shards are plain .tar files, since samples are read by their offsets; unpack it first"
        )
    return tar[: -len(".tar")] + ".index.parquet"


def has_index(tar: str) -> bool:
    """Whether there is an index beside a tar, of whatever age."""
    files, path = fsspec.url_to_fs(index_path(tar))
    return DIRECT.again(tar, lambda: bool(files.exists(path)))


def build_index(tar: str | Path) -> ShardIndex:
    """Scan a tar (a path or a URL), write its index beside it and return it.

    What did not become a row is listed in `skipped`, with the reason.

    Raises:
        ValueError: if it is no plain tar, is cut short, or has no readable sample.
    """
    tar = str(tar)
    target = index_path(tar)
    try:
        with DIRECT.whole(tar) as path, fsspec.open(path, "rb") as stream:
            state = replace(_stat(tar), fingerprint=_fingerprint(stream), digest=_digest(stream))
            stream.seek(0)
            rows, skipped = scan_tar(stream)
    except FileNotFoundError as error:
        raise ValueError(f"{tar}: no such tar") from error
    except tarfile.TarError as error:
        raise ValueError(
            f"{tar}: not a whole plain tar ({error}). Fetch or make it again, then {_way_out(tar)}"
        ) from error
    if not rows:
        reasons = dict(Counter(each.reason for each in skipped)) or "it has no media files"
        raise ValueError(f"{tar}: no readable sample: {reasons}. Remove this tar, or make it again")
    columns = list(zip(*(astuple(row) for row in rows), strict=True))
    about = {"format": FORMAT, "state": asdict(state), "skipped": [asdict(each) for each in skipped]}
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA
    )
    text = json.dumps(about)
    table = table.replace_schema_metadata({"mmflow": text, "digest": _index_digest(text, table)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_whole(target, buffer.getvalue())
    return ShardIndex(tar, table, state, tuple(skipped))


def read_index(tar: str | Path, check: bool = True) -> ShardIndex:
    """The index of a tar, after a look at whether the tar is still the one that was indexed.

    Size and time are asked of the file system; only where the time differs are 256 KiB of the tar read.

    check  False leaves out that look

    Raises:
        ValueError: if the tar or its index is missing, or the tar has changed since.
    """
    tar = str(tar)
    target = index_path(tar)
    try:
        data = DIRECT.read(target)
    except FileNotFoundError as error:
        raise ValueError(f"{tar}: no index beside it ({target}). Write one: {_way_out(tar)}") from error
    try:
        table = pq.read_table(pa.BufferReader(data))
        metadata = table.schema.metadata or {}
        about = json.loads(metadata.get(b"mmflow", b"{}"))
        if about.get("format") == FORMAT and metadata.get(b"digest") != _index_digest(metadata[b"mmflow"], table):
            raise ValueError("its digest is another")
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, MemoryError) as error:
        raise ValueError(f"{target}: damaged index ({error!r:.200}). Write it again: {_way_out(tar)}") from error
    if about.get("format") != FORMAT or table.schema.names != _SCHEMA.names:
        raise ValueError(f"{target}: index format {about.get('format')}, this mmflow reads {FORMAT}. {_way_out(tar)}")
    state = TarState(**about["state"])
    if check:
        refuse_changed(tar, state)
    return ShardIndex(tar, table, state, tuple(Skipped(**each) for each in about["skipped"]))


def _index_digest(about: str | bytes, table: pa.Table) -> bytes:
    """Of all that an index says: parquet itself does not notice a bit that changed, and an offset that did would give a
    picture another's caption."""
    digest = hashlib.blake2b(about.encode() if isinstance(about, str) else about, digest_size=16)
    for name in table.column_names:
        column = table.column(name)
        kind = column.type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        digest.update("\0".join(column.to_pylist()).encode() if text else column.to_numpy().tobytes())
    return digest.hexdigest().encode()


def tar_digest(tar: str | Path) -> str:
    """BLAKE2b of every byte of a tar, as `TarState.digest` has it."""
    with fsspec.open(str(tar), "rb") as stream:
        return _digest(stream)


def write_whole(url: str, data: bytes) -> None:
    """Write a file so that nobody ever sees half of it: locally by a rename, in object stores by their own promise."""
    files, path = fsspec.url_to_fs(url)
    if "file" not in files.protocol:
        files.pipe_file(path, data)
        return
    temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _way_out(tar: str) -> str:
    return f"python tools/shards.py index {tar}"


def _stat(tar: str) -> TarState:
    """Size and time from the file system; the rest empty."""
    files, path = fsspec.url_to_fs(tar)
    size = DIRECT.again(tar, lambda: files.info(path)["size"])
    if size is None:
        raise ValueError(f"{tar}: its store does not say how long it is, so samples cannot be read by their offsets")
    return TarState(int(size), os.stat(path).st_mtime_ns if "file" in files.protocol else 0, "", "")


def refuse_changed(tar: str, state: TarState, or_gone: bool = True) -> None:
    """Raises ValueError if a tar is not the one that was indexed, or, unless that is for others to find out, gone."""
    try:
        now = _stat(tar)
    except FileNotFoundError as error:
        if not or_gone:
            return
        raise ValueError(f"{tar}: the index is there but the tar is not") from error
    changed = now.size != state.size
    if not changed and now.mtime_ns != state.mtime_ns and now.mtime_ns:
        with fsspec.open(tar, "rb") as stream:
            changed = _fingerprint(stream) != state.fingerprint
    if changed:
        sizes = f"{state.size} bytes then, {now.size} now"
        raise ValueError(f"{tar}: changed since it was indexed ({sizes}). Index it again: {_way_out(tar)}")


def _fingerprint(stream: ByteStream) -> str:
    size = stream.seek(0, os.SEEK_END)
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
    for offset in sorted({max(0, size - BLOCK) * i // (BLOCKS - 1) for i in range(BLOCKS)}):
        stream.seek(offset)
        digest.update(stream.read(BLOCK))
    return digest.hexdigest()


def _digest(stream: ByteStream) -> str:
    stream.seek(0)
    digest = hashlib.blake2b(digest_size=16)
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
