"""What a validation pass leaves: the loss surface of the weights, in a file, as numbers, and as charts."""

from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
from torch import Tensor

from mmflow.batch import LEVELS, Batch
from mmflow.metrics.loss_surface import MEDIA, Kind, LossSurface, Row
from mmflow.metrics.surface_file import read_surface, surface_path, surface_paths, write_surface
from mmflow.train.loggers import Chart, find_wandb
from mmflow.train.predictions import gather

CURVES = 16
"""Steps in a chart; of more, evenly spread ones."""


@final
class Validation:
    """Collects rows of one pass on this rank, and joins those of all."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._holes = 0

    def add(self, batch: Batch, losses: dict[Kind, Tensor]) -> None:
        """Losses of a batch per kind of weights, (samples x levels,), levels fastest."""
        self._holes += len(batch.holes)
        columns = {kind: loss.double().reshape(-1, len(LEVELS)).tolist() for kind, loss in losses.items()}
        groups = zip(batch.pixels, batch.eps, strict=True)  # pixels of recalled latents are none, of their shape
        shapes = [tuple(p.shape[2:]) for p, e in groups for _ in range(len(e) // batch.repeats)]
        for i, (key, (frames, height, width)) in enumerate(zip(batch.keys[:: batch.repeats], shapes, strict=True)):
            row: dict[str, tuple[float, ...]] = {kind: tuple(column[i]) for kind, column in columns.items()}
            self._rows.append(Row(key, (frames, height, width), row))

    def surface(self, trainer: pl.Trainer, step: int) -> LossSurface:
        """The rows of all ranks, which this one then forgets."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        rows, self._rows = gather(trainer, self._rows), []
        return LossSurface.of(rows, step, data.val_question())

    def finish(self, trainer: pl.Trainer, main: Kind, step: int) -> dict[str, float]:
        """Scalars, the same on every rank; the surface itself goes to the run directory, charts to W&B.

        Args:
            trainer: whose ranks hold rows.
            main: the weights whose losses are called `val/loss`, if they were measured; the others' are `val_raw/loss`.
            step: optimizer steps of the weights.
        """
        holes, self._holes = sum(gather(trainer, [self._holes])), 0
        surface = self.surface(trainer, step)
        if not surface.rows:
            return {}
        values = {"val/unreadable": float(holes)} if holes else {}
        first = main if main in surface.kinds else surface.kinds[0]
        for kind in surface.kinds:
            values |= surface.scalars(kind, "val" if kind == first else f"val_{kind}")
        if trainer.is_global_zero and not trainer.sanity_checking:
            folder = Path(trainer.default_root_dir)
            write_surface(surface_path(folder, step), surface)
            wandb = find_wandb(trainer.loggers)
            if wandb is not None:
                wandb.show(step, charts=charts(folder, step, first))
        return values


def charts(run: Path, step: int, kind: str) -> dict[str, Chart]:
    """Per medium: loss against t, one curve per validated step up to this one."""
    paths = [path for at, path in surface_paths(run).items() if at <= step]
    surfaces = [read_surface(paths[i]) for i in spread(len(paths), CURVES)]
    found = {}
    for medium in MEDIA:
        rows = [
            (t, float(loss), each.step)
            for each in surfaces
            if medium in each.strata and kind in each.kinds
            for t, loss in zip(LEVELS, each.levels(kind, medium), strict=True)
        ]
        if rows:
            title = f"validation loss against t, {medium}s, {kind} weights"
            found[f"surface/{medium}"] = Chart(title, ("t", "loss", "step"), tuple(rows))
    return found


def spread(num: int, limit: int) -> list[int]:
    """At most `limit` of `num` places, evenly spread, the first and the last among them."""
    if num <= limit:
        return list(range(num))
    return [round(i * (num - 1) / (limit - 1)) for i in range(limit)]
