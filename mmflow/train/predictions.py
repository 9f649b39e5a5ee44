"""What `predict` leaves: one PNG or MP4 per prompt, and an index that says how each was made."""

import json
import os
from itertools import count
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from mmflow.batch import Request
from mmflow.export import write_media

INDEX = "index.jsonl"


@final
class Predictions(Callback):
    """Writes `predictions/00000.png` or `.mp4` and `predictions/index.jsonl` in the order of the prompts.

    What an earlier `predict` left there is moved to `predictions-1`, `-2`, ... first.

    Args:
        folder: where to; null is `predictions` in the run directory.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._rows: list[dict[str, Any]] = []

    def _folder(self, trainer: pl.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "predictions" if self.folder is None else Path(self.folder)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._rows = []
        folder = self._folder(trainer)
        if trainer.is_global_zero:
            earlier = set_aside(folder)
            if earlier is not None:
                print(f"kept {earlier}: what an earlier predict made")
        trainer.strategy.barrier("predictions")
        folder.mkdir(parents=True, exist_ok=True)  # by every process: nodes need not share a disk

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        module: Any = pl_module
        for request, frames in outputs:
            path = write_media(self._folder(trainer) / f"{request.index:05d}", frames, data.fps)
            evaluations = module.sampling.solver.evaluations(request.num_steps)
            self._rows.append(self._row(request, path, trainer) | {"evaluations": evaluations})

    def _row(self, request: Request, path: Path, trainer: pl.Trainer) -> dict[str, Any]:
        return {
            "index": request.index,
            "file": path.name,
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            "width": request.width,
            "height": request.height,
            "frames": request.frames,
            "num_steps": request.num_steps,
            "guidance_scale": request.guidance_scale,
            **(request.given.files if request.given is not None else {}),
            "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
        }

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = self._folder(trainer)
        rows = gather(trainer, self._rows)
        if trainer.is_global_zero:
            rows.sort(key=lambda row: row["index"])
            writing = folder / ".index.part"
            writing.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            os.replace(writing, folder / INDEX)
            print(f"{len(rows)} made: {folder / INDEX}")


def set_aside(folder: Path) -> Path | None:
    """Moves a folder that has an index to the first free `NAME-k`; says where to, or None where there was no index."""
    if not (folder / INDEX).exists():
        return None
    place = next(place for k in count(1) if not (place := folder.with_name(f"{folder.name}-{k}")).exists())
    return folder.rename(place)


def gather(trainer: pl.Trainer, rows: list[Any]) -> list[Any]:
    """The rows of all ranks, on every rank."""
    if trainer.world_size == 1:
        return rows
    import torch.distributed as dist

    parts: list[list[Any]] = [[] for _ in range(trainer.world_size)]
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]
