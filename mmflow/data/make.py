"""A list of media files to indexed shards, one shard at a time and each on its own, so that a broken run can go on."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmflow.data.caption import CaptionRule
from mmflow.data.container import sniff_extension
from mmflow.data.decode import UnreadableSample, check_media
from mmflow.data.index import Skipped, build_index, write_whole
from mmflow.data.item import SourceItem, in_validation
from mmflow.data.pool import Advance
from mmflow.data.shard import SAMPLES_PER_SHARD, ShardSample, sample_key, write_shard

SETTINGS = "make.json"


@dataclass(frozen=True)
class MakeOptions:
    """What decides the bytes of the shards: a resumed run must state the same."""

    rule: CaptionRule
    samples_per_shard: int
    val_fraction: float

    def __post_init__(self) -> None:
        if not 1 <= self.samples_per_shard <= SAMPLES_PER_SHARD:
            raise ValueError(f"--samples-per-shard {self.samples_per_shard}: give 1 to {SAMPLES_PER_SHARD}")
        if not 0 <= self.val_fraction < 1:
            raise ValueError(f"--val-fraction {self.val_fraction}: give at least 0 and less than 1")


@dataclass(frozen=True)
class Chunk:
    """The files of one shard, which is made from nothing but them: so shards are made side by side, and a run that was
    broken off can go on at any of them.
    """

    tar: Path
    items: tuple[SourceItem, ...]

    @property
    def done(self) -> Path:
        """Written last, with what was left out of this shard: the sign that the shard is whole."""
        return self.tar.with_name(f"{self.tar.stem}_stats.json")


def claim(out: Path, items: Sequence[SourceItem], options: MakeOptions, resume: bool) -> None:
    """Take the folder `out` for these files and options.

    Raises:
        ValueError: if it has shards and this is no resumption, or a resumption with other files or options.
    """
    listing = hashlib.blake2b(digest_size=16)
    for item in items:
        listing.update(json.dumps([item.name, item.version, item.caption]).encode())
    settings = {**asdict(options), "files": len(items), "listing": listing.hexdigest()}
    record = out / SETTINGS
    if any(out.glob("*.tar")) or any(out.glob("val/*.tar")):
        if not resume:
            raise ValueError(f"{out}: already has shards. Give another folder, or --resume to go on with a broken run")
        then = json.loads(record.read_text()) if record.exists() else {}
        changed = [
            f"{name} ({then.get(name)} then, {now} now)" for name, now in settings.items() if then.get(name) != now
        ]
        if changed:
            raise ValueError(f"{out}: --resume needs the same files and options, changed: {', '.join(changed)}")
    else:  # what a run without a single shard left behind says nothing of this one
        for stats in [*out.glob("*_stats.json"), *out.glob("val/*_stats.json")]:
            stats.unlink()
    out.mkdir(parents=True, exist_ok=True)
    write_whole(str(record), json.dumps(settings, indent=1).encode())


def cut(out: Path, items: Sequence[SourceItem], options: MakeOptions) -> list[Chunk]:
    """All shards to be made: of training in `out`, of validation in `out/val`."""
    val = [item for item in items if in_validation(item.name, options.val_fraction)]
    train = [item for item in items if not in_validation(item.name, options.val_fraction)]
    size = options.samples_per_shard
    return [
        Chunk(folder / f"{shard:05d}.tar", tuple(part[shard * size : (shard + 1) * size]))
        for folder, part in ((out, train), (out / "val", val))
        for shard in range(-(-len(part) // size))
    ]


@dataclass(frozen=True)
class Outcome:
    """What became of the files of one shard, or of all."""

    formats: Counter[str] = field(default_factory=Counter)
    """Files that went in, by what they are: "jpg picture", "mp4 clip", ..."""
    skipped: tuple[Skipped, ...] = ()

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(self.formats + other.formats, self.skipped + other.skipped)


def make_shard(chunk: Chunk, advance: Advance) -> Outcome:
    """Write a tar, its index and last its stats, unless that was done before.

    advance  called with 1 for every file
    """
    if chunk.done.exists():
        advance(len(chunk.items))
        stats = json.loads(chunk.done.read_text())
        return Outcome(Counter(stats["formats"]), tuple(Skipped(**each) for each in stats["skipped"]))
    formats: Counter[str] = Counter()
    skipped: list[Skipped] = []
    chunk.tar.parent.mkdir(parents=True, exist_ok=True)
    for stale in chunk.tar.parent.glob(f".{chunk.tar.stem}.*.part"):  # of a run that was killed
        stale.unlink()
    written = write_shard(chunk.tar, _samples(chunk, formats, skipped, advance))
    if written:
        build_index(chunk.tar)
    stats = {"samples": written, "formats": dict(formats), "skipped": [asdict(each) for each in skipped]}
    write_whole(str(chunk.done), json.dumps(stats).encode())
    return Outcome(formats, tuple(skipped))


def _samples(chunk: Chunk, formats: Counter[str], skipped: list[Skipped], advance: Advance) -> Iterator[ShardSample]:
    for place, item in enumerate(chunk.items):
        try:
            data = item.origin.read()
            extension = item.extension or sniff_extension(data)
            if extension is None:
                raise UnreadableSample("unsupported", "its bytes are of no known kind of picture or clip")
            header = check_media(data, extension)
            about = {**item.about, "source": item.name, "sha256": hashlib.sha256(data).hexdigest()}
            yield ShardSample(sample_key(int(chunk.tar.stem), place), extension, data, item.caption, about)
            formats[f"{extension} {header.kind}"] += 1
        except UnreadableSample as error:
            skipped.append(Skipped(item.name, error.reason, error.detail))
        except OSError as error:
            skipped.append(Skipped(item.name, "io", str(error)))
        advance(1)
