"""Surfaces on disk: `RUN/surface/step-000001000.parquet`, a row per sample, the question in the file's own header."""

import json
import os
from pathlib import Path

from mmflow.metrics.loss_surface import LossSurface, Row

HEADER = b"mmflow.surface"
FOLDER = "surface"


def surface_path(run: Path, step: int) -> Path:
    """Where the surface of a step lies."""
    return run / FOLDER / f"step-{step:09d}.parquet"


def surface_paths(run: Path) -> dict[int, Path]:
    """Optimizer steps -> surface, of all that a run has left, in order."""
    return {int(path.stem.split("-")[1]): path for path in sorted((run / FOLDER).glob("step-*.parquet"))}


def write_surface(path: Path, surface: LossSurface) -> None:
    """Written whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "key": [json.dumps(row.key) for row in surface.rows],
        "medium": [row.medium for row in surface.rows],
        "source": [str(row.key[0]) for row in surface.rows],
        **{name: [row.shape[i] for row in surface.rows] for i, name in enumerate(("frames", "height", "width"))},
        **{f"loss_{kind}": [list(row.losses[kind]) for row in surface.rows] for kind in surface.kinds},
    }
    header = json.dumps({"step": surface.step, "question": dict(surface.question)})
    path.parent.mkdir(parents=True, exist_ok=True)
    writing = path.with_name(f".{path.name}.part")
    pq.write_table(pa.table(columns).replace_schema_metadata({HEADER: header.encode()}), writing)
    os.replace(writing, path)


def read_surface(path: str | Path) -> LossSurface:
    """A surface from its file, or a run's newest.

    Raises:
        ValueError: if there is none, or the file is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if path.is_dir():
        found = surface_paths(path)
        if not found:
            raise ValueError(
                f"{path} holds no surface/step-*.parquet: a run leaves one at every validation "
                "(trainer.val_check_interval), `validate --ckpt_path RUN` makes one of its last checkpoint"
            )
        path = found[max(found)]
    if not path.is_file():
        raise ValueError(f"no validation surface at {path}: name a run directory or a surface/step-*.parquet of it")
    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {})[HEADER])
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(f"{path} is no validation surface that mmflow wrote, or is cut short") from error
    kinds = [name.removeprefix("loss_") for name in table.column_names if name.startswith("loss_")]
    rows = (
        Row(
            tuple(json.loads(row["key"])),
            (row["frames"], row["height"], row["width"]),
            {kind: tuple(row[f"loss_{kind}"]) for kind in kinds},
        )
        for row in table.to_pylist()
    )
    return LossSurface.of(rows, header["step"], header["question"])
