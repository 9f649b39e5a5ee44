"""The records of a study: a text file that carries finished cells from machine to machine, without weights.

One JSON object per line: `{"fingerprint": F, "controls": {...}}` once for all cells that share them, and
`{"cell": NAME, "labels": {...}, "fingerprint": F, "results": {...}}` for every cell, in the order in which they ended.
Lines are added and only replaced if the study asks for more than they have, so that the file can be kept under version
control and the lines of two machines merged.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmflow.study.controls import fingerprint, require_equal
from mmflow.study.folder import is_done
from mmflow.study.plan import Cell, Study
from mmflow.study.results import Results, read_folder


@dataclass(frozen=True)
class Record:
    """A line of a cell: its number, its text, and what it says."""

    line: int
    text: str
    results: Results


def read_records(study: Study) -> dict[str, Record]:
    """Name of a cell -> its record; none if the study keeps none, or nothing is finished yet.

    Raises:
        ValueError: if a line is damaged, or two lines say different things of one cell; with the number of the line.
    """
    if study.records is None or not Path(study.records).is_file():
        return {}
    lines = [line for line in enumerate(_lines(study.records), start=1) if line[1].strip()]
    parsed = [(number, text, _parse(f"{study.records}, line {number}", text)) for number, text in lines]
    controls = {each["fingerprint"]: each["controls"] for _, _, each in parsed if "controls" in each}
    found: dict[str, Record] = {}
    for number, text, each in parsed:
        if "controls" in each:
            continue
        where, name = f"{study.records}, line {number}", each["cell"]
        if each["fingerprint"] not in controls:
            raise ValueError(f"{where}: no line of this file has the controls {each['fingerprint']} of {name}")
        record = Record(number, text, _results(where, controls[each["fingerprint"]], each["results"]))
        if name in found and found[name].results != record.results:
            raise ValueError(
                f"{where}: says other things of {name} than line {found[name].line}: it was run twice. Keep one"
            )
        found.setdefault(name, record)
    return found


def known(study: Study) -> Iterator[tuple[Cell, Results | None]]:
    """Every cell and what it came to: by its record, or by its folder where no record has all that is asked for."""
    records = read_records(study)
    for cell in study.cells():
        recorded = records[cell.name].results if cell.name in records else None
        if recorded is None or not recorded.is_whole(study):
            recorded = read_folder(study.folder(cell)) or recorded
        yield cell, recorded


def unfinished(study: Study) -> list[Cell]:
    """The cells that have something left to do, here as by the records."""
    records = read_records(study)
    return [cell for cell in study.cells() if not _is_recorded(study, records, cell) and not is_done(study, cell)]


def is_recorded(study: Study, cell: Cell) -> bool:
    """Whether the records have all that the study asks of this cell."""
    return _is_recorded(study, read_records(study), cell)


def require_recorded_controls(study: Study, cell: Cell, controls: Mapping[str, Any]) -> None:
    """Refuses a cell that would not compare with those of the records.

    Raises:
        ValueError: with the difference.
    """
    records = read_records(study)
    for other in study.cells():
        if other.name in records:
            what = f"{other.name} in {study.records} and {cell.name}"
            require_equal(records[other.name].results.controls, controls, what)
            return


def record(study: Study, cells: list[Cell] | None = None) -> list[Cell]:
    """Adds finished cells to the records, and says which; safe in several processes at a time.

    Args:
        study: whose cells they are; one without records has nothing added.
        cells: those that may have ended; all if not given.

    Raises:
        ValueError: if the records are damaged, or a cell does not compare with those that they have.
    """
    if study.records is None:
        return []
    with _alone(study):
        records, added = read_records(study), []
        for cell in study.cells() if cells is None else cells:
            if _is_recorded(study, records, cell) or not is_done(study, cell):
                continue
            results = read_folder(study.folder(cell))
            assert results is not None
            require_recorded_controls(study, cell, results.controls)
            _add(study.records, cell, results, replaces=records.get(cell.name))
            added.append(cell)
    return added


def _is_recorded(study: Study, records: Mapping[str, Record], cell: Cell) -> bool:
    return cell.name in records and records[cell.name].results.is_whole(study)


@contextmanager
def _alone(study: Study) -> Iterator[None]:
    """Waits for the other processes of this study that write its records."""
    Path(study.out).mkdir(parents=True, exist_ok=True)
    with (Path(study.out) / "records.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _add(path: str, cell: Cell, results: Results, replaces: Record | None) -> None:
    """Writes the file anew with one more cell, whole or not at all."""
    target = Path(path)
    lines = _lines(path) if target.is_file() else []
    if replaces is not None:  # it has less than the study asks for now
        lines = [line for line in lines if line != replaces.text]
    said, short = asdict(results), fingerprint(results.controls)
    head = json.dumps({"fingerprint": short, "controls": said.pop("controls")}, sort_keys=True)
    if head not in lines:
        lines.append(head)
    lines.append(json.dumps({"cell": cell.name, "labels": cell.labels, "fingerprint": short, "results": said}))
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with part.open("w") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, target)


def _lines(path: str) -> list[str]:
    return Path(path).read_text(errors="replace").splitlines()


def _parse(where: str, text: str) -> dict[str, Any]:
    """A line's object: of controls, which are what their fingerprint says, or of a cell."""
    try:
        content = json.loads(text)
        if "controls" in content:
            if fingerprint(content["controls"]) != content["fingerprint"]:
                raise ValueError(f"these controls are not those of the fingerprint {content['fingerprint']}")
        elif not all(isinstance(content[key], kind) for key, kind in (("cell", str), ("results", dict))):
            raise ValueError("a cell needs a name and results")
        return {**content, "fingerprint": content["fingerprint"]}
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(where, error) from error


def _results(where: str, controls: dict[str, Any], said: dict[str, Any]) -> Results:
    try:
        steps = {key: {int(step): numbers for step, numbers in said[key].items()} for key in ("curve", "media")}
        results = Results(controls, **{**said, **steps})
        float(results.seconds), results.picked["losses"][str(results.picked["step"])], results.picked["val_loss"]
        if not all(isinstance(numbers, dict) for numbers in (*results.scores.values(), *results.curve.values())):
            raise TypeError("scores are no mappings of numbers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(where, error) from error
    return results


def _damaged(where: str, error: Exception) -> ValueError:
    why = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
    return ValueError(
        f"{where}: damaged ({why}). Restore the line from version control, or remove it: its cell is then run again"
    )
