"""A plain folder of media files with same-named `.txt` captions, as a list of what to put into shards."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmflow.data.decode import MEDIA_EXTENSIONS
from mmflow.data.scan import Skipped


@dataclass(frozen=True)
class SourceItem:
    """One media file and its caption, not yet opened."""

    name: str
    """Unique in its source and the same on every machine: the path below the folder, with forward slashes."""
    path: Path
    caption: str | None

    @property
    def extension(self) -> str:
        """Lower case, without a dot, one spelling per format."""
        extension = self.path.suffix[1:].lower()
        return {"jpeg": "jpg", "tif": "tiff"}.get(extension, extension)


@dataclass(frozen=True)
class CaptionRule:
    """What becomes of a file without a caption: left out, unless one of these says otherwise."""

    text: str | None = None
    """The caption of every such file."""
    from_filename: bool = False
    """`a_red-car.jpg` is captioned "a red car"."""
    keep_uncaptioned: bool = False
    """Written without a caption."""

    def fallback(self, path: Path) -> str | None:
        """The caption of a file that has none."""
        if self.from_filename:
            return " ".join(path.stem.replace("_", " ").replace("-", " ").split()) or None
        return self.text


def list_folder(folder: Path, rule: CaptionRule, leave: Path | None = None) -> tuple[list[SourceItem], list[Skipped]]:
    """All usable media below a folder, by name, and what was left out. Hidden files and folders are not looked at.

    leave  a folder below it that is passed over: where the shards go

    Raises:
        ValueError: if the folder does not exist.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder. Give a folder of pictures and clips")
    items: list[SourceItem] = []
    skipped: list[Skipped] = []
    media_stems: set[Path] = set()
    texts: list[Path] = []
    for path in _walk(folder, leave):
        name = path.relative_to(folder).as_posix()
        extension = path.suffix[1:].lower()
        if extension == "txt":
            texts.append(path)
        elif extension not in MEDIA_EXTENSIONS:
            skipped.append(Skipped(name, "unsupported", f"not one of {', '.join(MEDIA_EXTENSIONS)}"))
        else:
            media_stems.add(path.with_suffix(""))
            entry = _with_caption(name, path, rule)
            items.append(entry) if isinstance(entry, SourceItem) else skipped.append(entry)
    orphans = [path for path in texts if path.with_suffix("") not in media_stems]
    skipped += [
        Skipped(path.relative_to(folder).as_posix(), "no_media", "a .txt without a media file") for path in orphans
    ]
    return items, skipped


def in_validation(name: str, fraction: float) -> bool:
    """Whether a file belongs to the validation part: by its name alone, so that it stays there as the folder grows."""
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8, person=b"mmflow val").digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


def _walk(folder: Path, leave: Path | None) -> Iterator[Path]:
    for path in sorted(folder.iterdir(), key=lambda each: each.name):
        if path.name.startswith(".") or (leave is not None and path.resolve() == leave.resolve()):
            continue
        if path.is_dir() and not path.is_symlink():  # a link to a folder may lead in a circle
            yield from _walk(path, leave)
        elif path.is_file():
            yield path


def _with_caption(name: str, path: Path, rule: CaptionRule) -> SourceItem | Skipped:
    text = path.with_suffix(".txt")
    try:
        caption = text.read_text(encoding="utf-8-sig").strip() if text.is_file() else ""
    except UnicodeDecodeError:
        return Skipped(name, "caption_encoding", f"{text.name} is not UTF-8: save it as UTF-8")
    chosen = caption or rule.fallback(path)
    if chosen is None and not rule.keep_uncaptioned:
        return Skipped(name, "no_caption", f"{text.name} is {'empty' if text.is_file() else 'missing'}")
    return SourceItem(name, path, chosen)
