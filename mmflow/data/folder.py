"""A folder of media files with captions beside them: `.txt`, or `.json` as img2dataset and video2dataset write it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmflow.data.caption import CaptionRule, RowCaption
from mmflow.data.decode import MEDIA_EXTENSIONS
from mmflow.data.item import SourceItem, WholeFile, extension_of
from mmflow.data.scan import Skipped


def is_media(path: Path) -> bool:
    """Whether a file's name is that of a picture or a clip."""
    return path.suffix[1:].lower() in MEDIA_EXTENSIONS


def walk(folder: Path, leave: Path | None = None) -> Iterator[Path]:
    """All files below a folder, by name. Hidden files and folders are not looked at.

    leave  a folder below it that is passed over: where the shards go
    """
    for path in sorted(folder.iterdir(), key=lambda each: each.name):
        if path.name.startswith(".") or (leave is not None and path.resolve() == leave.resolve()):
            continue
        if path.is_dir() and not path.is_symlink():  # a link to a folder may lead in a circle
            yield from walk(path, leave)
        elif path.is_file():
            yield path


def list_folder(
    folder: Path, rule: CaptionRule, sidecar: RowCaption, leave: Path | None = None
) -> tuple[list[SourceItem], list[Skipped]]:
    """All usable media below a folder, by name, and what was left out.

    sidecar  what of `NAME.json` is the caption of a file without a `NAME.txt`; a template, or a column that was asked
             for, goes before the `.txt`
    leave    a folder below it that is passed over
    """
    items: list[SourceItem] = []
    skipped: list[Skipped] = []
    stems: set[Path] = set()
    others: list[Path] = []
    for path in walk(folder, leave):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in (".txt", ".json"):
            others.append(path)
        elif not is_media(path):
            skipped.append(Skipped(name, "unsupported", f"not one of {', '.join(MEDIA_EXTENSIONS)}"))
        else:
            stems.add(path.with_suffix(""))
            entry = _with_caption(name, path, rule, sidecar)
            items.append(entry) if isinstance(entry, SourceItem) else skipped.append(entry)
    orphans = [path for path in others if path.with_suffix("") not in stems]
    skipped += [
        Skipped(path.relative_to(folder).as_posix(), "no_media", f"a {path.suffix} without a media file")
        for path in orphans
    ]
    return items, skipped


def beside(path: Path, sidecar: RowCaption) -> tuple[str | None, dict[str, Any]]:
    """The caption that a media file's `.txt` or `.json` gives, if any, and what else the `.json` says.

    Raises:
        UnicodeDecodeError: if one of them is not UTF-8.
        json.JSONDecodeError: if the `.json` is none.
    """
    text, about = path.with_suffix(".txt"), path.with_suffix(".json")
    row = json.loads(about.read_text(encoding="utf-8-sig")) if about.is_file() else {}
    row = row if isinstance(row, dict) else {}
    written = text.read_text(encoding="utf-8-sig").strip() if text.is_file() else ""
    return choose(written, row, sidecar), scalars(row)


def choose(written: str, row: dict[str, Any], sidecar: RowCaption) -> str | None:
    """Of a `.txt` and a `.json`: the `.txt`, unless something of the `.json` was asked for."""
    asked = sidecar.template is not None or sidecar.column != "caption"
    return sidecar(row) if asked or not written else written


def scalars(row: dict[str, Any]) -> dict[str, str | int | float]:
    """What of a `.json` is kept: its plain values (url, licence, hash, ...)."""
    return {name: value for name, value in row.items() if isinstance(value, str | int | float) and name != "caption"}


def _with_caption(name: str, path: Path, rule: CaptionRule, sidecar: RowCaption) -> SourceItem | Skipped:
    try:
        caption, about = beside(path, sidecar)
    except UnicodeDecodeError:
        return Skipped(name, "caption_encoding", f"{path.stem}.txt is not UTF-8: save it as UTF-8")
    except json.JSONDecodeError as error:
        return Skipped(name, "caption_json", f"{path.stem}.json is no JSON: {error}")
    caption = caption or rule.fallback(path.stem)
    if caption is None and not rule.keep_uncaptioned:
        text = path.with_suffix(".txt")
        return Skipped(name, "no_caption", f"{text.name} is {'empty' if text.is_file() else 'missing'}")
    size = str(path.stat().st_size)
    return SourceItem(name, WholeFile(path), caption, extension_of(path.name), size, about)
