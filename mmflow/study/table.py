"""The tidy table of a study: one row per cell, kind of weights and sampling setting; parquet and CSV."""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmflow.study.controls import fingerprint, require_equal
from mmflow.study.folder import score_name
from mmflow.study.plan import Study
from mmflow.study.records import known

Row = dict[str, Any]
KEYS = ("weights", "solver", "num_steps", "guidance_scale")
"""Columns that name a sampling setting; those before `weights` name a cell."""
TEXT = ("controls", "weights", "solver")


def collect(study: Study) -> tuple[list[Row], list[str]]:
    """All rows that there are, and what is missing, in words.

    Raises:
        ValueError: if two cells have unequal controls, or were judged by more or less than the study asks for now.
    """
    rows: list[Row] = []
    missing: list[str] = []
    first: tuple[str, dict[str, Any]] | None = None
    asked = {f"judged.{name}": value for name, value in json.loads(json.dumps(asdict(study.judge))).items()}
    for cell, results in known(study):
        begun = len(rows)
        if results is not None:
            controls = results.controls
            judged = {name: controls.get(name) for name in asked}
            require_equal(judged, asked, f"{cell.name} as judged and this study")
            first = first or (cell.name, controls)
            require_equal(first[1], controls, f"{first[0]} and {cell.name}")
            picked = results.picked
            shared = {"step": picked["step"], "val_loss": picked["val_loss"]}
            shared["train_seconds"] = round(results.seconds, 1)
            for weights in study.weights:
                for s in study.settings:
                    numbers = results.scores.get(score_name(weights, s))
                    if numbers is not None:
                        keys = dict(zip(KEYS, (weights, s.solver, s.num_steps, s.guidance_scale), strict=True))
                        rows.append({**cell.labels, **keys, **shared, **numbers, "controls": fingerprint(controls)})
        have, all_ = len(rows) - begun, len(study.weights) * len(study.settings)
        if have < all_:
            what = ", ".join(f"{name} {value}" for name, value in cell.labels.items())
            missing.append(f"{what}: {have} of {all_} settings")
    return rows, missing


def curves(study: Study) -> list[Row]:
    """One row per cell and checkpoint that was validated and scored: steps done, FLOPs spent, loss and scores."""
    rows: list[Row] = []
    for cell, results in known(study):
        if results is None or results.size is None:
            continue
        size, losses = results.size, results.picked["losses"]
        for step, numbers in sorted(results.curve.items()):
            spent = {"step": step, "flops": step * size["step_flops"], "val_loss": losses[str(step)]}
            first = study.settings[0]
            setting = dict(zip(KEYS, ("ema", first.solver, first.num_steps, first.guidance_scale), strict=True))
            rows.append({**cell.labels, **setting, **spent, **size, **numbers})
    return rows


def write_table(rows: Sequence[Row], folder: Path, name: str = "table") -> Path:
    """`table.parquet` and `table.csv`, or of another name, written whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(column for row in rows for column in row))
    columns = {column: [row.get(column) for row in rows] for column in names}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f".{name}.parquet.part")
    os.replace(folder / f".{name}.parquet.part", folder / f"{name}.parquet")
    with (folder / f".{name}.csv.part").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    os.replace(folder / f".{name}.csv.part", folder / f"{name}.csv")
    return folder / f"{name}.csv"


def read_table(path: str | Path, name: str = "table") -> list[Row]:
    """The rows of a table, or of the one of that name in a study's folder. Labels are text, all else is a number.

    Raises:
        ValueError: if there is none, or it is none.
    """
    path = Path(path)
    if path.is_dir():
        path = path / f"{name}.parquet"
    if not path.is_file():
        raise ValueError(f"no table at {path}: `study.py collect --config STUDY.yaml` writes it")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows: list[Row] = pq.read_table(path).to_pylist()
    else:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    if not rows or any(key not in rows[0] for key in KEYS):
        raise ValueError(f"{path} is no table of a study: it needs the columns {', '.join(KEYS)}")
    numbers = list(rows[0])[list(rows[0]).index("weights") :]
    return [{k: _number(path, k, v) if k in numbers and k not in TEXT else str(v) for k, v in r.items()} for r in rows]


def _number(path: Path, name: str, value: Any) -> float | None:
    try:
        return None if value in ("", None) else float(value)
    except ValueError as error:
        raise ValueError(f"{path}: {name} must be a number, got {value!r}") from error


def label_columns(rows: Sequence[Row]) -> list[str]:
    """The columns that name a cell."""
    names = list(rows[0])
    return names[: names.index("weights")]
