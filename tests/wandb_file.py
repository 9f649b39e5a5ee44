"""What W&B has of a run offline, over all its starts."""

from pathlib import Path
from typing import Any

from mmflow.train.wandb_file import STEP, records, rows


def _files(run: Path) -> list[Path]:
    return sorted((run / "wandb").glob("offline-run-*/run-*.wandb"))


def history(run: Path) -> list[dict[str, Any]]:
    """Rows of all offline starts of a run, in order."""
    return [row for path in _files(run) for row in rows(path)]


def points(run: Path) -> dict[tuple[str, int], Any]:
    """Every number by its name and step.

    Raises:
        AssertionError: if one is there twice.
    """
    found: dict[tuple[str, int], Any] = {}
    for row in history(run):
        step = row[STEP]
        for name, value in row.items():
            if name[0] != "_" and name != STEP:
                assert (name, step) not in found, f"{name} of step {step} is there twice"
                found[name, step] = value
    return found


def run_records(run: Path) -> list[Any]:
    """The record that names the run, of every start."""
    return [r.run for path in _files(run) for r in records(path) if r.WhichOneof("record_type") == "run"]


def media(run: Path) -> set[str]:
    """Names of all media files that W&B has copied."""
    return {path.name for path in (run / "wandb").glob("offline-run-*/files/media/**/*") if path.is_file()}
