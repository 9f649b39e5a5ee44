"""Lists of files, of parts of films and of embedded files: each row becomes one item."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmflow.data.caption import CaptionRule, RowCaption, find_column, require_column, row_caption
from mmflow.data.decode import CLIP_EXTENSIONS, MEDIA_EXTENSIONS
from mmflow.data.folder import beside
from mmflow.data.item import FilmSpan, ParquetCell, SourceItem, WholeFile, extension_of
from mmflow.data.scan import Skipped
from mmflow.data.table import Table

FILE_NAMES = (
    *("file_name", "filename", "file", "path", "file_path", "filepath"),
    *("image_path", "video_path", "image", "video", "media"),
)
"""Columns that are taken for the files if none is named; the first that is there."""


@dataclass(frozen=True)
class Columns:
    """What of a list means what; None is found out or not there."""

    file: str | None = None
    caption: str | None = None
    start: str | None = None
    """Seconds of a film at which a clip begins; `end` likewise. Both or none."""
    end: str | None = None
    template: str | None = None
    """A caption with columns in braces."""

    def __post_init__(self) -> None:
        if (self.start is None) != (self.end is None):
            raise ValueError("--start-column and --end-column go together")
        if self.caption is not None and self.template is not None:
            raise ValueError("--caption-column and --template: give one of them")


def list_table(
    table: Table, columns: Columns, rule: CaptionRule, below: str = ""
) -> tuple[str, list[SourceItem], list[Skipped]]:
    """What the list is, its usable rows, and what was left out. Relative names start at the list's own folder.

    below  begins the items' names: the list's folder below the source, with a slash

    Raises:
        ValueError: if a column is not there, or none can be taken for the files.
    """
    file = columns.file or _file_column(table)
    for name, option in (
        (file, "--file-column"),
        (columns.start, "--start-column"),
        (columns.end, "--end-column"),
    ):
        if name is not None:
            require_column(name, table.columns, option, str(table.path))
    caption = row_caption(columns.caption, columns.template, table.columns, table.classes, str(table.path))
    if file in table.media and columns.start is not None:
        raise ValueError(f"{table.path}: {file!r} holds embedded files; parts are cut from films that are files")
    said = f"captions: {said_of(caption)}"
    if file in table.media:
        entries, what = _embedded(table, file, caption, rule), f"parquet with embedded files in {file!r}"
    elif columns.start is not None:
        what = f"a list of parts of films in {file!r}, {columns.start!r} to {columns.end!r}"
        entries = _listed(table, file, columns, caption, rule)
    else:
        entries, what = _listed(table, file, columns, caption, rule), f"a list of files in {file!r}"
    items: list[SourceItem] = []
    skipped: list[Skipped] = []
    for entry in entries:
        named = replace(entry, name=below + entry.name)
        items.append(named) if isinstance(named, SourceItem) else skipped.append(named)
    return f"{what}, {said}", items, skipped


def said_of(caption: RowCaption) -> str:
    """Where captions come from, in words."""
    if caption.template is not None:
        return repr(caption.template)
    return "the .txt or .json beside each file" if caption.column is None else repr(caption.column)


def _file_column(table: Table) -> str:
    if len(table.media) == 1:
        return table.media[0]
    found = find_column(FILE_NAMES, table.media or table.columns)
    if found is None or len(table.media) > 1:
        held = f"{', '.join(table.media)} hold files" if table.media else f"it has: {', '.join(table.columns)}"
        raise ValueError(f"{table.path}: which column has the files? {held}. Say it: --file-column NAME")
    return found


def _no_caption(name: str, caption: RowCaption) -> Skipped:
    return Skipped(name, "no_caption", f"{' and '.join(caption.names) or 'its .txt'} is empty or missing")


def _embedded(table: Table, column: str, caption: RowCaption, rule: CaptionRule) -> Iterator[SourceItem | Skipped]:
    version = str(table.path.stat().st_size)
    for number, row in enumerate(table.rows({column, *caption.names})):
        path = (row.get(column) or {}).get("path") if isinstance(row.get(column), dict) else None
        name = f"{table.path.name}#{number}"
        text = caption(row) or rule.fallback(Path(path or name).stem)
        if text is None and not rule.keep_uncaptioned:
            yield _no_caption(name, caption)
            continue
        about = {"path": path} if path else {}
        yield SourceItem(name, ParquetCell(table.path, column, number), text, None, version, about)


def _listed(
    table: Table, file: str, columns: Columns, caption: RowCaption, rule: CaptionRule
) -> Iterator[SourceItem | Skipped]:
    spans = {name for name in (columns.start, columns.end) if name is not None}
    for number, row in enumerate(table.rows({file, *spans, *caption.names}), 1):
        name = str(row[file] or "").strip()
        path = table.path.parent / name
        if not name:
            yield Skipped(f"{table.path.name} row {number}", "missing", f"{file} is empty")
        elif not path.is_file():
            yield Skipped(name, "missing", f"{path}: no such file")
        elif extension_of(name) not in MEDIA_EXTENSIONS:
            yield Skipped(name, "unsupported", f"not one of {', '.join(MEDIA_EXTENSIONS)}")
        else:
            yield _item(path, name, row, columns, caption, rule)


def _item(
    path: Path, name: str, row: dict[str, Any], columns: Columns, caption: RowCaption, rule: CaptionRule
) -> SourceItem | Skipped:
    text = caption(row)
    if not caption.names:
        try:
            text = beside(path, RowCaption("caption"))[0]
        except ValueError as error:
            return Skipped(name, "caption_encoding", str(error))
    text = text or rule.fallback(path.stem)
    if text is None and not rule.keep_uncaptioned:
        return _no_caption(name, caption)
    size = str(path.stat().st_size)
    if columns.start is None or columns.end is None:
        return SourceItem(name, WholeFile(path), text, extension_of(name), size)
    start, end = _seconds(row[columns.start]), _seconds(row[columns.end])
    if start is None or end is None or not 0 <= start < end:
        return Skipped(name, "bad_span", f"from {row[columns.start]!r} to {row[columns.end]!r}: no part of a film")
    if extension_of(name) not in CLIP_EXTENSIONS:
        return Skipped(name, "bad_span", "a picture has no parts")
    about = {"start": start, "end": end}
    return SourceItem(f"{name}#{start:g}-{end:g}", FilmSpan(path, start, end), text, "mp4", size, about)


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) else None
