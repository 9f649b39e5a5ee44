"""What a source of media is, told from what is there: a folder, an image folder, a list, parquet, or tars."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mmflow.data.caption import CaptionRule, RowCaption, row_caption
from mmflow.data.folder import is_media, list_folder, walk
from mmflow.data.item import SourceItem
from mmflow.data.listing import Columns, list_table, said_of
from mmflow.data.scan import Skipped
from mmflow.data.shard import expand_shards
from mmflow.data.table import LIST_EXTENSIONS, open_table
from mmflow.data.tars import first_json, list_tars

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""How Hugging Face's image folders list their files, in the folder that the names start at."""
LOOKED_AT = 100_000
"""Files of a folder that are looked at to tell what it is."""


@dataclass(frozen=True)
class Listing:
    """A source, opened."""

    what: str
    """What it was taken for, in a line for people."""
    items: list[SourceItem]
    skipped: list[Skipped]


def list_source(source: str, columns: Columns, rule: CaptionRule, leave: Path | None = None) -> Listing:
    """All usable media of a source, and what was left out.

    source  a folder, a list (csv, tsv, jsonl, parquet), a tar, or a glob or brace list of tars or parquet files
    leave   a folder below it that is passed over: where the shards go

    Raises:
        ValueError: if it is nothing of that, or an option does not go with what it is.
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path, columns, rule, leave)
    if source.endswith(".tar"):
        return _tars(expand_shards(source), columns, rule)
    if path.is_file():
        if path.suffix[1:].lower() not in LIST_EXTENSIONS:
            raise ValueError(f"{source}: not a folder, a list ({', '.join(LIST_EXTENSIONS)}) or a .tar")
        return _tables([path], columns, rule)
    found = sorted(path.parent.glob(path.name)) if path.suffix == ".parquet" and path.parent.is_dir() else []
    if not found:
        raise ValueError(f"{source}: no such file or folder")
    return _tables(found, columns, rule)


def _folder(folder: Path, columns: Columns, rule: CaptionRule, leave: Path | None) -> Listing:
    files = list(islice(walk(folder, leave), LOOKED_AT))
    metadata = [file for file in files if file.name in METADATA]
    tars = [file for file in files if file.suffix == ".tar" and file.parent == folder]
    media = any(map(is_media, files))
    if metadata:
        return _image_folder(folder, metadata, columns, rule, leave)
    if tars and any(is_media(file) for file in files if file.parent == folder):
        raise ValueError(
            f"{folder}: holds both media files and tars. Say which: '{folder}/*.tar', or put the media into a folder"
        )
    if tars:
        return _tars([str(tar) for tar in tars], columns, rule)
    parquet = [file for file in files if file.suffix == ".parquet"]
    if parquet and not media:
        return _tables(parquet, columns, rule, folder)
    lists = [file for file in files if file.suffix[1:].lower() in LIST_EXTENSIONS]
    if lists and not media:
        raise ValueError(f"{folder}: holds no media, but lists. Give the list itself: {lists[0]}")
    _refuse(columns, f"{folder} is a folder of media")
    first = next((file for file in files if file.suffix == ".json" and not file.stem.endswith("_stats")), None)
    sidecar = _sidecar(columns, () if first is None else _names(first), str(folder))
    items, skipped = list_folder(folder, rule, sidecar, leave)
    return Listing(f"a folder of media files with captions beside them, {_said(sidecar)}", items, skipped)


def _image_folder(
    folder: Path, metadata: Sequence[Path], columns: Columns, rule: CaptionRule, leave: Path | None
) -> Listing:
    parts = [list_table(open_table(path), columns, rule, _below(folder, path)) for path in metadata]
    items = [item for _, some, _ in parts for item in some]
    skipped = [each for *_, some in parts for each in some]
    known = {item.name.partition("#")[0] for item in items} | {each.name for each in skipped}
    for path in walk(folder, leave):
        name = path.relative_to(folder).as_posix()
        if is_media(path) and name not in known:
            skipped.append(Skipped(name, "not_listed", f"{metadata[0].name} does not name it"))
    names = ", ".join(path.relative_to(folder).as_posix() for path in metadata)
    return Listing(f"an image folder by its {names}: {parts[0][0]}", items, skipped)


def _tables(paths: Sequence[Path], columns: Columns, rule: CaptionRule, folder: Path | None = None) -> Listing:
    items: list[SourceItem] = []
    skipped: list[Skipped] = []
    said: list[str] = []
    for path in paths:
        try:
            table = open_table(path)
        except ValueError as error:
            if len(paths) == 1:
                raise
            skipped.append(Skipped(path.name, "bad_parquet", str(error)))
            continue
        what, some, left = list_table(table, columns, rule, "" if folder is None else _below(folder, path))
        said.append(what)
        items += some
        skipped += left
    if not said:
        raise ValueError(f"{paths[0]}: {skipped[0].detail}; so are the other {len(paths) - 1}")
    what = said[0]
    if len(paths) > 1:
        what = f"{len(paths)} lists ({paths[0].name} to {paths[-1].name}; a glob takes some): {what}"
    return Listing(what, items, skipped)


def _tars(tars: Sequence[str], columns: Columns, rule: CaptionRule) -> Listing:
    _refuse(columns, f"{tars[0]} is a tar")
    asked = columns.caption is not None or columns.template is not None
    sidecar = _sidecar(columns, first_json(tars) if asked else (), tars[0])
    items, skipped = list_tars(tars, rule, sidecar)
    return Listing(f"{len(tars)} tar(s) as img2dataset and video2dataset write them, {_said(sidecar)}", items, skipped)


def _below(folder: Path, path: Path) -> str:
    below = path.parent.relative_to(folder).as_posix()
    return "" if below == "." else f"{below}/"


def _refuse(columns: Columns, what: str) -> None:
    for name, option in (
        (columns.file, "--file-column"),
        (columns.start, "--start-column"),
    ):
        if name is not None:
            raise ValueError(f"{what}, which has no columns: {option} is for lists")


def _sidecar(columns: Columns, names: Sequence[str], where: str) -> RowCaption:
    """What of the `.json` beside a media file is its caption."""
    if columns.caption is None and columns.template is None:
        return RowCaption("caption")
    return row_caption(columns.caption, columns.template, names, where=f"{where}, the .json files")


def _said(sidecar: RowCaption) -> str:
    asked = sidecar != RowCaption("caption")
    return f"captions: {said_of(sidecar)} of .json" if asked else "captions: .txt, else .json"


def _names(path: Path) -> tuple[str, ...]:
    try:
        row = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        return ()
    return tuple(row) if isinstance(row, dict) else ()
