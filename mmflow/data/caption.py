"""Captions of media files: from named values (a row of a list, a `.json`), or by a rule where there is none."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CAPTION_NAMES = ("caption", "text", "prompt", "description")
"""Columns that are taken for captions if none is named; the first that is there."""
_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class CaptionRule:
    """What becomes of a file without a caption: left out, unless one of these says otherwise."""

    text: str | None = None
    """The caption of every such file."""
    from_filename: bool = False
    """`a_red-car.jpg` is captioned "a red car"."""
    keep_uncaptioned: bool = False
    """Written without a caption."""

    def fallback(self, stem: str) -> str | None:
        """The caption of a file that has none. `stem` is its name without folder and extension."""
        if self.from_filename:
            return " ".join(stem.replace("_", " ").replace("-", " ").split()) or None
        return self.text


@dataclass(frozen=True)
class RowCaption:
    """The caption that named values give: of one column, or a template that is filled in; None of neither."""

    column: str | None = None
    template: str | None = None
    """`a photo of a {label}`: a name in braces stands for its value."""
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the numbers in a column, as Hugging Face's ClassLabel has them."""

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        fields = _FIELD.findall(self.template) if self.template is not None else ()
        return tuple(fields) if self.column is None else (self.column, *fields)

    def __call__(self, row: Mapping[str, Any]) -> str | None:
        """The caption; None if a value is missing or empty."""
        if self.template is None:
            return None if self.column is None else self._text(row, self.column)
        values = {name: self._text(row, name) for name in self.names}
        if None in values.values():
            return None
        return _FIELD.sub(lambda match: str(values[match[1]]), self.template).strip() or None

    def _text(self, row: Mapping[str, Any], name: str) -> str | None:
        value = row.get(name)
        if isinstance(value, list | tuple):  # several captions: the first that says something
            value = next((each for each in value if each), None)
        if name in self.classes:
            names = self.classes[name]
            return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
        if value is None or isinstance(value, bytes | dict) or (isinstance(value, float) and math.isnan(value)):
            return None
        return str(value).strip() or None


def row_caption(
    column: str | None,
    template: str | None,
    columns: Sequence[str],
    classes: Mapping[str, Sequence[str]] | None = None,
    where: str = "",
) -> RowCaption:
    """The captions that were asked for; without either, those of a column that is named like one.

    columns  the columns there are
    where    what has them, for errors

    Raises:
        ValueError: if a column is not there, or a template names none.
    """
    if template is not None and not _FIELD.search(template):
        raise ValueError(f"--template {template!r} names no column in braces; one text for all files is --caption")
    if column is None and template is None:
        column = find_column(CAPTION_NAMES, columns)
    caption = RowCaption(None if template is not None else column, template, classes or {})
    for name in caption.names:
        require_column(name, columns, "--caption-column" if template is None else "--template", where)
    return caption


def find_column(known: Sequence[str], columns: Sequence[str]) -> str | None:
    """The first of the known names that is a column, whatever its case."""
    lower = {column.lower(): column for column in reversed(columns)}
    return next((lower[name] for name in known if name in lower), None)


def require_column(name: str, columns: Sequence[str], option: str, where: str) -> None:
    """Refuse a column that is not there.

    Raises:
        ValueError: naming the columns that are.
    """
    if name not in columns:
        raise ValueError(f"{where}: no column {name!r} ({option}). It has: {', '.join(columns) or 'none'}")
