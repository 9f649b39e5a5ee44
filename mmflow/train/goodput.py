"""Where a run's hours go: training, and all else."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from mmflow.train.loggers import RunCsv
from mmflow.train.run import write_json

NAME = "goodput.json"
KINDS = ("train", "evaluate", "save", "data", "restart", "waste")
"""`data` is waiting for it; `restart` all from a stop to the next step, time in a queue as well; `waste` steps that a
stop has lost."""
EVERY = 30.0
"""Seconds between two times that the ledger is written."""


class Ledger:
    """Seconds by kind, as the first process sees them.

    Args:
        path: of the file that it is kept in.
        clock: seconds since any moment, the same for all starts of a run.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self._clock = path, clock
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.unsaved = dict.fromkeys(KINDS, 0.0)
        self._kind, self._since, self._written = "restart", clock(), 0.0

    def take_up(self, continued: bool, began: float) -> None:
        """Begins a start of the run, after what earlier ones have left.

        Args:
            continued: from a checkpoint; what was not in it is lost.
            began: when this process did.
        """
        left = self._read() if continued else None
        if left is not None:
            self.seconds = {kind: left["seconds"].get(kind, 0.0) for kind in KINDS}
            for kind, lost in left["unsaved"].items():
                if kind in ("train", "data", "evaluate"):
                    self.seconds[kind] -= lost
                    self.seconds["waste"] += lost
            began = left["time"]
        self.unsaved = dict.fromkeys(KINDS, 0.0)
        self.seconds["restart"] += max(self._clock() - began, 0.0)
        self._kind, self._since = "data", self._clock()

    def _read(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return None
        return found

    def turn_to(self, kind: str) -> str:
        """What is done from now on; what was done until now."""
        now, before = self._clock(), self._kind
        self.seconds[before] += now - self._since
        self.unsaved[before] += now - self._since
        self._kind, self._since = kind, now
        return before

    def saved(self) -> None:
        """A checkpoint holds all that was done."""
        self.turn_to(self._kind)
        self.unsaved = dict.fromkeys(KINDS, 0.0)
        self.write()

    def write(self) -> None:
        """Keeps the ledger where the next start finds it."""
        self.turn_to(self._kind)
        self._written = self._clock()
        write_json(self.path, {"time": self._clock(), "seconds": self.seconds, "unsaved": self.unsaved})

    def is_due(self) -> bool:
        """Whether it is time to write."""
        return self._clock() - self._written > EVERY

    def hours(self) -> dict[str, float]:
        """Hours by kind, and the share of training."""
        total = sum(self.seconds.values())
        share = self.seconds["train"] / total if total else 0.0
        return {**{kind: round(s / 3600, 6) for kind, s in self.seconds.items()}, "goodput": round(share, 4)}


BEGAN = time.time()


@final
class Goodput(Callback):
    """Keeps `goodput.json` of a run over all its starts; its hours also go to `results.json` and the loggers."""

    def __init__(self) -> None:
        self.ledger: Ledger | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.ledger = Ledger(Path(trainer.default_root_dir) / NAME)
            self.ledger.take_up(trainer.ckpt_path is not None, BEGAN)

    def turn_to(self, kind: str) -> str | None:
        """See `Ledger.turn_to`; nothing outside of training and on all but the first process."""
        return None if self.ledger is None else self.ledger.turn_to(kind)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.turn_to("train")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.turn_to("data")
        if self.ledger is not None and self.ledger.is_due():
            self.ledger.write()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.turn_to("evaluate")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.turn_to("data")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.ledger is None:
            return
        self.ledger.write()
        hours, results = self.ledger.hours(), Path(trainer.default_root_dir) / "results.json"
        if results.is_file():
            write_json(results, {**json.loads(results.read_text()), "hours": hours})
        for logger in trainer.loggers:
            if isinstance(logger, RunCsv):
                continue  # has a line per step
            logger.log_metrics({f"hours/{kind}": value for kind, value in hours.items()}, step=trainer.global_step)
        self.ledger = None


@contextmanager
def counted_as(trainer: pl.Trainer, kind: str) -> Iterator[None]:
    """Inside, a run's time is of that kind."""
    ledger = ledger_of(trainer)
    before = None if ledger is None else ledger.turn_to(kind)
    try:
        yield
    finally:
        if ledger is not None and before is not None:
            ledger.turn_to(before)


def ledger_of(trainer: pl.Trainer) -> Ledger | None:
    """Of a run that trains, on the first process."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((c.ledger for c in callbacks if isinstance(c, Goodput)), None)
