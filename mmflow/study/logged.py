"""Numbers that a run has logged, by step."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def losses(run: Path) -> dict[int, dict[str, float]]:
    """Optimizer steps done -> validation losses of pictures and, where there are clips, of clips."""
    names = {"val/loss_picture": "pictures", "val/loss_clip": "clips"}
    return {step + 1: {names[n]: value for n, value in row.items()} for step, row in logged(run, list(names))}


def logged(run: Path, names: Sequence[str]) -> Iterator[tuple[int, Mapping[str, float]]]:
    """Rows of a run's metrics.csv that have the first of these numbers: step, and those numbers that they have."""
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row.get(names[0]):
                yield int(row["step"]), {name: float(row[name]) for name in names if row.get(name)}
