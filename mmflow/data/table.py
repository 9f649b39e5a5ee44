"""Lists of media files: csv, tsv, jsonl and parquet, and the bytes that a parquet file can hold itself."""

import csv
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmflow.data.container import UnreadableSample

LIST_EXTENSIONS = ("csv", "tsv", "jsonl", "ndjson", "parquet")
BATCH_ROWS = 64
"""Rows of embedded files that are in memory at once."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A list whose columns are known and whose rows are read when they are asked for."""

    path: Path
    columns: tuple[str, ...]
    media: tuple[str, ...] = ()
    """Columns that hold the bytes of files: binary, or Hugging Face's struct of bytes and path."""
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the numbers in Hugging Face's ClassLabel columns."""

    def rows(self, names: Collection[str]) -> Iterator[Row]:
        """The named columns of all rows, in their order; a column of embedded files comes without their bytes.

        Raises:
            ValueError: if a line cannot be understood.
        """
        if self.path.suffix.lower() == ".parquet":
            yield from _parquet_rows(self, names)
        else:
            read = _json_rows if self.path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows
            yield from ({name: row.get(name) for name in names} for row in read(self.path))


def open_table(path: Path) -> Table:
    """The columns of a list, and which of them hold files.

    Raises:
        ValueError: if it is no such list, or an empty one.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _open_parquet(path)
    if suffix in (".jsonl", ".ndjson"):
        columns = tuple(dict.fromkeys(name for row in _json_rows(path) for name in row))
    else:
        columns = tuple(next(_csv_lines(path), []))
    if not columns:
        raise ValueError(f"{path}: an empty list")
    return Table(path, columns)


def read_cell(path: Path, column: str, row: int) -> bytes:
    """The bytes of one embedded file. Rows that are asked for in ascending order are read in one sweep.

    Raises:
        UnreadableSample: empty or missing.
    """
    try:
        cell = _sweep(path, column).cell(row)
    except (pa.ArrowException, OSError) as error:
        raise UnreadableSample("io", f"{path}: {error}") from error
    if isinstance(cell, dict):
        name, cell = cell.get("path"), cell.get("bytes")
        if cell is None and name:
            beside = path.parent / name
            if not beside.is_file():
                raise UnreadableSample("missing", f"no bytes in row {row}, and no file {beside}")
            cell = beside.read_bytes()
    if not cell:
        raise UnreadableSample("empty", f"{path}: row {row} of {column} holds nothing")
    return bytes(cell)


class _Sweep:
    """Reads a column's batches forward, and from the start again if an earlier row is asked for."""

    def __init__(self, path: Path, column: str) -> None:
        self._path, self._column = path, column
        self._begin()

    def _begin(self) -> None:
        file = pq.ParquetFile(self._path, pre_buffer=False)
        self._batches = file.iter_batches(BATCH_ROWS, columns=[self._column])
        self._first, self._batch = 0, next(self._batches)

    def cell(self, row: int) -> Any:
        if row < self._first:
            self._begin()
        while row >= self._first + len(self._batch):
            self._first += len(self._batch)
            self._batch = next(self._batches)
        return self._batch.column(0)[row - self._first].as_py()


_sweep = lru_cache(maxsize=2)(_Sweep)


def _csv_lines(path: Path) -> Iterator[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}). Save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}: {error}") from error


def _csv_rows(path: Path) -> Iterator[Row]:
    lines = _csv_lines(path)
    header = next(lines, [])
    for number, line in enumerate(lines, 2):
        if line and len(line) != len(header):
            raise ValueError(f"{path}, record {number}: {len(line)} values for {len(header)} columns; quote commas")
        if line:
            yield dict(zip(header, line, strict=True))


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}, line {number}: no JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: not an object like {{'file_name': ..., 'text': ...}}")
            yield row


def _open_parquet(path: Path) -> Table:
    try:
        schema = pq.read_schema(path)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: not a whole parquet file ({error})") from error
    media = tuple(each.name for each in schema if _is_bytes(each.type) or _is_embedded(each.type))
    return Table(path, tuple(schema.names), media, _class_names(schema))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_embedded(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and any(each.name == "bytes" and _is_bytes(each.type) for each in kind)


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """What Hugging Face's `datasets` notes in the schema of the columns whose numbers stand for names."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about["info"]["features"].items()
        return {name: tuple(each["names"]) for name, each in features if each.get("_type") == "ClassLabel"}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return {}


def _parquet_rows(table: Table, names: Collection[str]) -> Iterator[Row]:
    file = pq.ParquetFile(table.path, pre_buffer=False)
    asked = [name for name in names if name not in table.media]
    paths = [
        f"{name}.path"
        for name in names
        if name in table.media and pa.types.is_struct(file.schema_arrow.field(name).type)
    ]
    if not asked and not paths:
        yield from ({} for _ in range(file.metadata.num_rows))
        return
    for batch in file.iter_batches(columns=asked + paths):
        yield from batch.to_pylist()
