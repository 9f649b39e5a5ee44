"""Shards: tars in the naming of img2dataset and video2dataset, written deterministically and read by byte ranges.

    00000.tar             KEY = 5 digits of the shard, 4 of the place in it
      000000000.jpg       the media file, bytes as they were
      000000000.txt       its caption, UTF-8 (left out if there is none)
      000000000.json      where it came from
    00000.index.parquet   what `mmflow.data.index` knows of each sample

A shard is named by a path or by any URL that fsspec can open.
"""

import io
import json
import os
import re
import shlex
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import fsspec

from mmflow.data.decode import MEDIA_EXTENSIONS, UnreadableSample
from mmflow.data.index import Row
from mmflow.data.store import DIRECT, Store
from mmflow.data.store import read_range as read_range

SAMPLES_PER_SHARD = 10_000
"""The most that a key's four digits can number."""
GAP = 1 << 16
"""Bytes between a media file and its caption up to which one request for both beats two."""


@dataclass(frozen=True)
class ShardSample:
    """What is written of one sample."""

    key: str
    extension: str
    """Of the media file, lower case, without a dot."""
    media: bytes
    caption: str | None
    """None: no caption member is written."""
    meta: dict[str, str | int | float] = field(default_factory=dict)
    """Becomes KEY.json; no such member if empty."""


def sample_key(shard: int, place: int) -> str:
    """img2dataset's key: five digits of the shard and four of the place in it.

    Raises:
        ValueError: if a number has too many digits.
    """
    if not (0 <= shard < 100_000 and 0 <= place < SAMPLES_PER_SHARD):
        raise ValueError(f"shard {shard}, place {place}: keys number shards to 99999 and their samples to 9999")
    return f"{shard:05d}{place:04d}"


def write_shard(path: str | Path, samples: Iterable[ShardSample]) -> int:
    """Write a tar and return the number of samples in it; with no samples no file is made.

    Equal samples give equal bytes, whoever writes them and when. The tar appears under its name only once it is whole.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    written = 0
    try:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in samples:
                _add(tar, f"{sample.key}.{sample.extension}", sample.media)
                if sample.caption is not None:
                    _add(tar, f"{sample.key}.txt", sample.caption.encode())
                if sample.meta:
                    _add(
                        tar, f"{sample.key}.json", json.dumps(sample.meta, ensure_ascii=False, sort_keys=True).encode()
                    )
                written += 1
        if written:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return written


def read_sample(tar: str, row: Row, store: Store = DIRECT) -> tuple[bytes, str]:
    """Media bytes and caption of one indexed sample, by reading only its own byte ranges. No caption reads as "".

    Raises:
        UnreadableSample: missing, io or truncated for the tar, caption_encoding for a caption that is not UTF-8.
    """
    media_end, caption_end = row.media_offset + row.media_size, row.caption_offset + row.caption_size
    if not row.caption_size:
        return read_range(tar, row.media_offset, media_end, store), ""
    start, end = min(row.media_offset, row.caption_offset), max(media_end, caption_end)
    if end - start <= row.media_size + row.caption_size + GAP:
        span = read_range(tar, start, end, store)
        media = span[row.media_offset - start : media_end - start]
        caption = span[row.caption_offset - start : caption_end - start]
    else:
        media = read_range(tar, row.media_offset, media_end, store)
        caption = read_range(tar, row.caption_offset, caption_end, store)
    return media, _decoded(tar, row, caption)


def read_caption(tar: str, row: Row, store: Store = DIRECT) -> str:
    """KEY.txt of one indexed sample alone; errors as of `read_sample`."""
    if not row.caption_size:
        return ""
    return _decoded(tar, row, read_range(tar, row.caption_offset, row.caption_offset + row.caption_size, store))


def read_about(tar: str, row: Row, store: Store = DIRECT) -> bytes | None:
    """KEY.json of one indexed sample; None if it has none. Errors as of `read_range`."""
    return read_range(tar, row.json_offset, row.json_offset + row.json_size, store) if row.json_size else None


def _decoded(tar: str, row: Row, caption: bytes) -> str:
    try:
        return caption.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UnreadableSample("caption_encoding", f"{tar}: {row.key}.txt is not UTF-8: {error}") from error


def expand_shards(pattern: str | list[str]) -> list[str]:
    """Tars that a folder, a glob, a brace list like `data/{00000..00009}.tar`, or a list of these names; sorted each.

    A folder stands for the tars directly in it, so a `val/` below it is not taken in.

    Raises:
        ValueError: if a pattern matches nothing, names a tar that is not there, or a folder of media without tars.
    """
    patterns = [pattern] if isinstance(pattern, str) else pattern
    if not patterns:
        raise ValueError("no shards: the list of patterns is empty")
    shards = [shard for each in patterns for shard in _expand_one(each)]
    repeated = sorted({shard for shard in shards if shards.count(shard) > 1}) if len(set(shards)) < len(shards) else []
    if repeated:
        raise ValueError(f"{repeated[0]} is named twice by {patterns}: name each tar once")
    return shards


def shard_names(tars: tuple[str, ...]) -> dict[str, str]:
    """A name for each tar that is unique among them and says nothing of where they lie: the path below what they
    share."""
    parts = [(tar[: (cut := tar.rfind("/") + 1)], tar[cut:]) for tar in tars]
    # Folders are few where tars are many: only these are taken apart.
    parents = {folder: PurePosixPath(f"{folder}x").parent for folder in {folder for folder, _ in parts}}
    common = os.path.commonpath([str(parent) for parent in parents.values()])
    below = {folder: str(parent.relative_to(common)) for folder, parent in parents.items()}
    begins = {folder: "" if path == "." else f"{path}/" for folder, path in below.items()}
    names = (begins[folder] + os.path.splitext(name)[0] for folder, name in parts)
    return dict(zip(tars, names, strict=True))


def _expand_one(pattern: str) -> list[str]:
    if "://" in pattern:
        return _expand_url(pattern)
    if Path(pattern).is_dir():
        tars = sorted(str(path) for path in Path(pattern).glob("*.tar"))
        if not tars:
            raise ValueError(_no_tars(Path(pattern)))
        return tars
    if Path(pattern).is_file() and not pattern.endswith(".tar"):
        raise ValueError(f"shards {pattern!r}: no .tar. {_make_them(Path(pattern))}")
    names = _braces(pattern)
    found = [path for name in names for path in (_glob(name, "file") if _is_glob(name) else [name])]
    absent = [name for name in found if not Path(name).is_file()]
    if absent or not found:
        what = f"no such file: {absent[0]}" if absent else "no file matches"
        raise ValueError(
            f"shards {pattern!r}: {what}. Give a folder, a glob ('shards/*.tar') or '{{00000..00009}}.tar'"
        )
    return found


def _expand_url(pattern: str) -> list[str]:
    """URLs are taken at their word unless they are a glob or a folder: asking for each tar would take minutes."""
    if not _is_glob(pattern) and not pattern.endswith(".tar"):
        pattern = pattern.rstrip("/") + "/*.tar"
    scheme = pattern.split("://")[0]
    found = [url for name in _braces(pattern) for url in (_glob(name, scheme) if _is_glob(name) else [name])]
    if not found:
        raise ValueError(f"shards {pattern!r}: nothing matches. Give a folder, a glob or '{{00000..00009}}.tar'")
    return found


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _glob(name: str, scheme: str) -> list[str]:
    files, path = fsspec.url_to_fs(name)
    found = sorted(DIRECT.again(name, lambda: files.glob(path)))
    if scheme != "file":
        return [files.unstrip_protocol(each) for each in found]
    # fsspec answers with absolute paths; a relative pattern keeps its own start, so that keys do not name a machine
    return found if Path(name).is_absolute() else [os.path.relpath(each) for each in found]


def _braces(pattern: str) -> list[str]:
    """`{00000..00009}` and `{a,b}` written out, as a shell would, the first brace slowest."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    body = match.group(1)
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if numbers:
        first, last = numbers.groups()
        choices = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = body.split(",")
    return [name for choice in choices for name in _braces(pattern[: match.start()] + choice + pattern[match.end() :])]


def _no_tars(folder: Path) -> str:
    known = (*MEDIA_EXTENSIONS, "parquet")
    media = next((path for path in folder.rglob("*") if path.suffix[1:].lower() in known), None)
    if media is None:
        return f"shards {str(folder)!r}: the folder holds no .tar and no media. Is this the right folder?"
    return f"shards {str(folder)!r}: the folder holds media ({media.name}, ...) but no .tar. {_make_them(folder)}"


def _make_them(source: Path) -> str:
    name = source.resolve().stem if source.is_file() else source.resolve().name
    line = shlex.join(["python", "tools/shards.py", "make", str(source), f"{name}-shards"])
    return f"Make shards of it first:\n  {line}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """A member that tells nothing about who wrote it and when."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = len(data), 0, 0o644
    tar.addfile(info, io.BytesIO(data))
