"""One media file of a source, not yet opened: where its bytes are, and its caption."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from mmflow.data.container import UnreadableSample
from mmflow.data.shard import read_range
from mmflow.data.snip import snip
from mmflow.data.table import read_cell

Meta = Mapping[str, str | int | float]


class AbstractOrigin(ABC):
    """Where the bytes of a media file are. Travels to worker processes."""

    @abstractmethod
    def read(self) -> bytes:
        """All bytes.

        Raises:
            UnreadableSample, OSError: if they cannot be had.
        """


@final
@dataclass(frozen=True)
class WholeFile(AbstractOrigin):
    """A file as it is."""

    path: Path

    def read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError as error:
            raise UnreadableSample("missing", f"{self.path}: no such file") from error


@final
@dataclass(frozen=True)
class FilmSpan(AbstractOrigin):
    """A part of a film, encoded anew into an MP4 of its own."""

    path: Path
    start: float
    """Seconds from the film's beginning, like `end`."""
    end: float

    def read(self) -> bytes:
        return snip(self.path, self.start, self.end)


@final
@dataclass(frozen=True)
class ParquetCell(AbstractOrigin):
    """Bytes embedded in a parquet file."""

    path: Path
    column: str
    row: int

    def read(self) -> bytes:
        return read_cell(self.path, self.column, self.row)


@final
@dataclass(frozen=True)
class TarMember(AbstractOrigin):
    """A member of a tar, read by its place; nothing is extracted."""

    tar: str
    offset: int
    size: int

    def read(self) -> bytes:
        return read_range(self.tar, self.offset, self.offset + self.size)


@dataclass(frozen=True)
class SourceItem:
    """One media file and its caption, not yet opened."""

    name: str
    """The same on every machine: the path below the source, with forward slashes, and what tells it from others."""
    origin: AbstractOrigin
    caption: str | None
    extension: str | None
    """Lower case, without a dot, one spelling per format; None: only the bytes can tell."""
    version: str = ""
    """Changes when the source does: the size of its file."""
    about: Meta = field(default_factory=dict)
    """What else is kept of it in KEY.json."""


def extension_of(name: str) -> str:
    """Of a file's name: lower case, without a dot, one spelling per format."""
    extension = name.rpartition(".")[2].lower()
    return {"jpeg": "jpg", "tif": "tiff"}.get(extension, extension)


def in_validation(name: str, fraction: float) -> bool:
    """Whether a file belongs to the validation part: by its name alone, so that it stays there as the source grows."""
    digest = hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8, person=b"mmflow val").digest()
    return int.from_bytes(digest, "little") < fraction * 2**64
