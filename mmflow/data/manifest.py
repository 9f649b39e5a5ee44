"""`manifest.json` of a folder of shards: how much of what is in which tar, without opening any of them."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from mmflow.data.index import ShardIndex, read_index, write_whole

NAME = "manifest.json"


@dataclass(frozen=True)
class ShardSummary:
    """One tar of the folder."""

    name: str
    """File name, without the folder."""
    samples: int
    pictures: int
    clips: int
    uncaptioned: int
    skipped: dict[str, int]
    """Members left out of the index, counted by reason."""
    size: int
    digest: str


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
    clips = len(index.places("clip"))
    return ShardSummary(
        name=index.tar.rsplit("/", 1)[-1],
        samples=len(index),
        pictures=len(index) - clips,
        clips=clips,
        uncaptioned=int((index.column("caption_length") == 0).sum()),
        skipped=dict(sorted(Counter(each.reason for each in index.skipped).items())),
        size=index.state.size,
        digest=index.state.digest,
    )


def write_manifest(folder: str | Path) -> Manifest:
    """Gather the indices of the tars directly in a local folder, and write `manifest.json` into it.

    Raises:
        ValueError: if a tar has no index, or changed since it was indexed.
    """
    folder = Path(folder)
    manifest = Manifest(tuple(summarize(read_index(tar)) for tar in sorted(folder.glob("*.tar"))))
    totals = {name: getattr(manifest, name) for name in ("samples", "pictures", "clips", "digest")}
    content = {"format": 1, **totals, "shards": [asdict(shard) for shard in manifest.shards]}
    write_whole(str(folder / NAME), json.dumps(content, indent=1).encode())
    return manifest


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        ValueError: if there is none, or it is damaged.
    """
    path = Path(folder) / NAME
    try:
        content = json.loads(path.read_text())
        return Manifest(tuple(ShardSummary(**shard) for shard in content["shards"]))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file. Write it: python tools/shards.py index {folder}") from error
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: damaged ({error!r}). Write it again: python tools/shards.py index {folder}"
        ) from error
