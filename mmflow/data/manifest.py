"""`manifest.json` of a folder of shards: how much of what is in which tar, without opening any of them.

A run plans from it, so that its start costs one file however many tars there are.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import fsspec

from mmflow.data.index import ShardIndex, index_path, read_index, write_whole

NAME = "manifest.json"
FORMAT = 2


@dataclass(frozen=True)
class ShardSummary:
    """One tar of the folder."""

    name: str
    """File name, without the folder."""
    pictures: int
    clips: int
    uncaptioned_pictures: int
    uncaptioned_clips: int
    skipped: dict[str, int]
    """Members left out of the index, counted by reason."""
    size: int
    digest: str

    @property
    def samples(self) -> int:
        return self.pictures + self.clips

    @property
    def uncaptioned(self) -> int:
        return self.uncaptioned_pictures + self.uncaptioned_clips


@dataclass(frozen=True)
class Manifest:
    """All tars of one folder, by name."""

    shards: tuple[ShardSummary, ...]

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def pictures(self) -> int:
        return sum(shard.pictures for shard in self.shards)

    @property
    def clips(self) -> int:
        return sum(shard.clips for shard in self.shards)

    @property
    def digest(self) -> str:
        """One name for these very shards."""
        names = "".join(f"{shard.name} {shard.digest}\n" for shard in self.shards)
        return hashlib.blake2b(names.encode(), digest_size=16).hexdigest()


def summarize(index: ShardIndex) -> ShardSummary:
    """What the manifest says of one indexed tar."""
    is_clip, mute = index.column("kind") == "clip", index.column("caption_length") == 0
    return ShardSummary(
        name=index.tar.rsplit("/", 1)[-1],
        pictures=int((~is_clip).sum()),
        clips=int(is_clip.sum()),
        uncaptioned_pictures=int((mute & ~is_clip).sum()),
        uncaptioned_clips=int((mute & is_clip).sum()),
        skipped=dict(sorted(Counter(each.reason for each in index.skipped).items())),
        size=index.state.size,
        digest=index.state.digest,
    )


def folder_of(tar: str) -> str:
    """The folder or URL prefix that a tar lies directly in."""
    return tar.rpartition("/")[0] or ("/" if tar.startswith("/") else ".")


def tars_in(folder: str) -> list[str]:
    """Names of the tars directly in a folder, sorted."""
    files, path = fsspec.url_to_fs(folder)
    return sorted(each.rsplit("/", 1)[-1] for each in files.glob(path.rstrip("/") + "/*.tar"))


def write_manifest(folder: str | Path) -> Manifest:
    """Gather the indices of the tars directly in a folder (a path or a URL), and write `manifest.json` into it.

    Raises:
        ValueError: if a tar has no index, or changed since it was indexed.
    """
    folder = str(folder)
    manifest = Manifest(tuple(summarize(read_index(f"{folder.rstrip('/')}/{name}")) for name in tars_in(folder)))
    write_whole(f"{folder.rstrip('/')}/{NAME}", as_json(manifest))
    return manifest


def as_json(manifest: Manifest) -> bytes:
    """The file's text."""
    totals = {name: getattr(manifest, name) for name in ("samples", "pictures", "clips", "digest")}
    content = {"format": FORMAT, **totals, "shards": [asdict(shard) for shard in manifest.shards]}
    return json.dumps(content, indent=1).encode()


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    path = f"{str(folder).rstrip('/')}/{NAME}"
    try:
        with fsspec.open(path, "rb") as stream:
            content = json.loads(stream.read())
        if content["format"] != FORMAT:
            raise ValueError(
                f"{path}: format {content['format']}, this mmflow reads {FORMAT}. Write it again: "
                f"python tools/shards.py index {folder}"
            )
        return Manifest(tuple(ShardSummary(**shard) for shard in content["shards"]))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file. Write it: python tools/shards.py index {folder}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: damaged ({error!r}). Write it again: python tools/shards.py index {folder}"
        ) from error


def listed(tars: Sequence[str]) -> dict[str, ShardSummary]:
    """What the manifests of their folders say of tars, those left out of which they say nothing.

    A local tar is left out, too, if its index is newer than the manifest or its size is another: its own index knows
    better. Of a remote one the digest is compared when its index is read for the first time.
    """
    found: dict[str, ShardSummary] = {}
    for folder in sorted({folder_of(tar) for tar in tars}):
        files, path = fsspec.url_to_fs(f"{folder}/{NAME}")
        if not files.exists(path):
            continue
        known = {shard.name: shard for shard in read_manifest(folder).shards}
        written = None if urlsplit(folder).scheme else os.stat(path).st_mtime_ns
        for tar in (tar for tar in tars if folder_of(tar) == folder):
            shard = known.get(tar.rsplit("/", 1)[-1])
            if shard is not None and (written is None or _is_as_listed(tar, shard, written)):
                found[tar] = shard
    return found


def _is_as_listed(tar: str, shard: ShardSummary, written: int) -> bool:
    try:
        return os.stat(tar).st_size == shard.size and os.stat(index_path(tar)).st_mtime_ns <= written
    except FileNotFoundError:
        return False
