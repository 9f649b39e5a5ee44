"""Where a run's numbers go: `metrics.csv` in the run directory, and W&B, offline unless asked otherwise."""

import csv
import os
import secrets
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mmflow.train.wandb_file import STEP
from mmflow.train.wandb_marks import Marks

FLUSHING = "x_transaction_log_flush_interval"
"""W&B's setting of how often it writes to its file, in versions that have it."""
ONLINE_SECONDS = 30.0
"""How long W&B may keep a run waiting when it begins and when it ends."""


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

    def has_step(self, step: int) -> bool:
        """Whether training logged that step."""
        if not self.path.exists():
            return False
        with self.path.open(newline="") as file:
            return any(row["step"] == str(step) and bool(row.get("train/loss")) for row in csv.DictReader(file))

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


def wandb_id(folder: Path, saved: str | None = None) -> str:
    """The run's W&B id, made once and kept in the run directory, so that a continued run is one run.

    saved: the id in the checkpoint that is continued; taken where the directory has none.
    """
    path = folder / "wandb_id"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text((saved or secrets.token_hex(4)) + "\n")
    return path.read_text().strip()


@dataclass(frozen=True)
class Chart:
    """One figure: rows of (x, y, a number of its own), named by `columns`; as lines, one per such number, or points."""

    title: str
    columns: tuple[str, str, str]
    rows: tuple[tuple[float, float, float], ...]
    kind: Literal["lines", "scatter"] = "lines"


@dataclass(frozen=True)
class Grid:
    """A table. A cell that is a path to a PNG or MP4 shows it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@final
class RunWandb(Logger):
    """W&B, on one rank. It never stops a run, and holds every point once, however often the run is continued.

    What a stopped run had logged beyond its checkpoint is trained, and would be logged, again; W&B takes nothing back.
    So the last step of every name is kept in `RUN/wandb_steps.json`, and what does not lie beyond it is left out: an
    exactly continued run says the same again. A kill takes what W&B had not yet written: the next start looks into the
    file of the last one, and logs the numbers that are not there from metrics.csv.

    Args:
        folder: the run directory.
        mode: `online` falls back to `offline`, with a line, where there is no network or no account.
        project: W&B's.
    """

    def __init__(self, folder: Path, mode: Literal["offline", "online"], project: str) -> None:
        super().__init__()
        self.folder, self.mode, self.project = folder, mode, project
        self._run: Any = None
        self._lost = False
        self._marks, self._has_looked = Marks(folder), False

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def version(self) -> str:
        return wandb_id(self.folder)

    @property
    def experiment(self) -> Any:
        """W&B's run; None before the first point. (Lightning asks before the run's configuration is written.)"""
        return self._run

    def _start(self) -> Any:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        self.folder.mkdir(parents=True, exist_ok=True)
        given: dict[str, Any] = {"init_timeout": ONLINE_SECONDS, "finish_timeout": ONLINE_SECONDS, "silent": True}
        if FLUSHING in wandb.Settings.model_fields:
            given[FLUSHING] = 1.0  # of its own accord every 15 s
        settings = wandb.Settings(**given)
        begin = partial(
            wandb.init,
            project=self.project,
            name=self.name,
            dir=str(self.folder),
            config=self._config(),
            id=wandb_id(self.folder),
            resume="allow",
            settings=settings,
            reinit="finish_previous",
        )
        try:
            run = begin(mode=self.mode)
        except Exception as error:
            if self.mode == "offline":
                raise
            said = str(error).strip().splitlines() or [type(error).__name__]
            print(f"W&B cannot be reached ({said[0]}): this run logs offline, send it later with `wandb sync`")
            self.mode = "offline"
            run = begin(mode="offline")
        self._marks.begin(Path(run.dir).parent / f"run-{run.id}.wandb")
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run

    def _config(self) -> dict[str, Any]:
        """The run's configuration, which is written before the first point is logged."""
        path = self.folder / "config.yaml"
        found: dict[str, Any] = yaml.safe_load(path.read_text()) if path.is_file() else {}
        return found

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's configuration is its config.yaml, which W&B is given when it begins."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One point of each metric."""
        self._log({name: value for name, value in metrics.items() if name != "epoch"}, step or 0)

    @rank_zero_only
    def show(
        self,
        step: int,
        images: Mapping[str, Path] | None = None,
        clips: Mapping[str, Path] | None = None,
        charts: Mapping[str, Chart] | None = None,
        grids: Mapping[str, Grid] | None = None,
    ) -> None:
        """Pictures and clips that lie in files, charts and tables."""
        shown = {name: partial(_media, path) for name, path in {**(images or {}), **(clips or {})}.items()}
        shown |= {name: partial(_chart, chart) for name, chart in (charts or {}).items()}
        shown |= {name: partial(_table, grid) for name, grid in (grids or {}).items()}
        self._log(shown, step)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        if self._lost:
            return
        if not self._has_looked:
            self._has_looked = True
            for row in self._marks.lost():
                self._send(row, int(row.pop("step")))
        self._send(values, step)

    def _send(self, values: Mapping[str, Any], step: int) -> None:
        new = {name: value for name, value in values.items() if step > self._marks.of(name)}
        if not new or self._lost:
            return
        try:
            made = {name: value() if callable(value) else value for name, value in new.items()}
            self._run = self._run or self._start()
            self._run.log({**made, STEP: step})
        except Exception as error:  # whatever a tracker fails of, training is worth more
            self._lost = True
            print(f"W&B failed and is left alone from here on ({error}); metrics.csv goes on")
            return
        self._marks.set(new, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            try:
                run.finish(exit_code=int(status not in ("success", "finished")))
            except Exception as error:
                print(f"W&B did not finish ({error}); its files are in {self.folder / 'wandb'}")


def _media(path: Path) -> Any:
    import wandb

    return wandb.Video(str(path), format="mp4") if path.suffix == ".mp4" else wandb.Image(str(path))


def _table(grid: Grid) -> Any:
    import wandb

    rows = [[_media(cell) if isinstance(cell, Path) else cell for cell in row] for row in grid.rows]
    return wandb.Table(columns=list(grid.columns), data=rows)


def _chart(chart: Chart) -> Any:
    import wandb

    x, y, stroke = chart.columns
    table = wandb.Table(columns=[x, y, stroke], data=[[a, b, str(c)] for a, b, c in chart.rows])
    if chart.kind == "scatter":
        return wandb.plot.scatter(table, x=x, y=y, title=chart.title)
    return wandb.plot.line(table, x=x, y=y, stroke=stroke, title=chart.title)


def find_wandb(loggers: list[Logger]) -> RunWandb | None:
    """W&B among a trainer's loggers; None where it is off, or on another rank."""
    return next((logger for logger in loggers if isinstance(logger, RunWandb)), None)
