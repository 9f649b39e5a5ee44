"""Where a run's numbers go: `metrics.csv` in the run directory, and W&B, offline unless asked otherwise."""

import csv
import os
import secrets
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only


@final
class RunCsv(Logger):
    """Appends to one `metrics.csv` per run. A continued run cuts it back to the step that it continues from.

    (Lightning's CSVLogger deletes the file when a run is continued.)

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._fields: list[str] = []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's configuration is its config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One row. A metric that was not there before adds a column."""
        row = {"step": step, **{name: f"{value:.7g}" for name, value in metrics.items() if name != "epoch"}}
        if len(row) == 1:
            return
        if not self._fields and self.path.exists():
            with self.path.open(newline="") as file:
                self._fields = next(csv.reader(file), [])
        new = [name for name in row if name not in self._fields]
        if new or not self.path.exists():
            self._fields += new
            self._rewrite(lambda _: True)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._fields, restval="").writerow(row)

    @rank_zero_only
    def cut_back(self, step: int) -> None:
        """Drops what a stopped run had logged beyond its checkpoint at `step`. Training logs step `step` as the next
        one;
        scores of the checkpoint itself stay."""
        if self.path.exists():
            self._rewrite(
                lambda row: int(row["step"]) < step or (int(row["step"]) == step and not row.get("train/loss"))
            )

    def _rewrite(self, keep: Any) -> None:
        rows: list[dict[str, str]] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if keep(row)]
                self._fields = self._fields or list(rows[0] if rows else ["step"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        writing = self.path.with_suffix(".part")
        with writing.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._fields, restval="")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(writing, self.path)


def wandb_id(folder: Path) -> str:
    """The run's W&B id, made once and kept in the run directory, so that a continued run is one run."""
    path = folder / "wandb_id"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(4) + "\n")
    return path.read_text().strip()


def make_wandb(folder: Path, mode: Literal["offline", "online"], project: str) -> WandbLogger:
    """W&B's logger with the run's own id and name."""
    os.environ.setdefault("WANDB_SILENT", "true")
    return WandbLogger(
        name=folder.name,
        project=project,
        save_dir=folder,
        id=wandb_id(folder),
        resume="allow",
        mode=mode,
        offline=mode == "offline",
        log_model=False,
    )


@rank_zero_only
def log_media(loggers: list[Logger], step: int, images: dict[str, Path], clips: dict[str, Path]) -> None:
    """Pictures and clips that lie in files, to every logger that can show them (W&B)."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            media: dict[str, Any] = {name: wandb.Image(str(path)) for name, path in images.items()}
            media |= {name: wandb.Video(str(path), format="mp4") for name, path in clips.items()}
            logger.experiment.log({**media, "trainer/global_step": step})
