"""A run that no longer moves says where every process stands, and ends."""

import faulthandler
import json
import os
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

EXIT_STATUS = 76
"""Of a process that the watchdog ends: tools/slurm/train.sbatch has SLURM start such a job again."""
GATHERING = 30.0
"""Seconds that processes wait for each other's reports at most: they do not begin to stand still at the same moment."""
SAYING = 2.0
"""Seconds that the first process needs to say what it found: the first that ends takes the others with it."""


@final
class Watchdog(Callback):
    """Ends a run when an optimizer step, a validation or a save takes too long.

    Every process then writes its stack, its phase and its samples' keys to `hang/rank-00000.json` and `.txt` in the run
    directory; the first one names those that are behind.

    Args:
        step_timeout: seconds without a sign of life; 0 never ends a run.
    """

    def __init__(self, step_timeout: float = 1800.0) -> None:
        if step_timeout < 0:
            raise ValueError(f"watchdog.step_timeout must not be negative, got {step_timeout}")
        self.step_timeout = step_timeout
        self.phase, self.step = "start", 0
        self.keys: tuple[Any, ...] = ()
        self._alive = time.monotonic()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._place = (Path(), 0, 1)

    def beat(self, phase: str) -> None:
        """A sign of life, and what is done next."""
        self.phase, self._alive = phase, time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._place = Path(trainer.default_root_dir) / "hang", trainer.global_rank, trainer.world_size
        self.step = trainer.global_step
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.on_encoding = partial(self.beat, "encode")
        self.beat("data")
        if self.step_timeout:
            self._over.clear()
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.keys, self.step = batch.keys, trainer.global_step
        self.beat("forward")

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Any) -> None:
        self.beat("backward and its collectives")

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.beat("optimizer and its collectives")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.step = trainer.global_step
        self.beat("data")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.beat("validation")

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.beat("validation")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.beat("data")

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Any) -> None:
        self.beat("save")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._over.set()  # what comes at the end of a run (previews, scores) has no steps

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if "SLURM_JOB_ID" not in os.environ:  # there, even an end that hangs is ended
            self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self.step_timeout / 4)):
            if time.monotonic() - self._alive > self.step_timeout:
                self._report()
                os._exit(EXIT_STATUS)

    def _report(self) -> None:
        folder, rank, world = self._place
        since = time.time() - (time.monotonic() - self._alive)
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            about = {"rank": rank, "step": self.step, "phase": self.phase, "node": os.uname().nodename}
            about["keys"] = ["/".join(map(str, key)) for key in self.keys]
            with (folder / f"rank-{rank:05d}.txt").open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            (folder / f"rank-{rank:05d}.json").write_text(json.dumps({**about, "time": time.time()}))
        expected = range(world) if rank == 0 else range(1)
        until = time.monotonic() + GATHERING
        while time.monotonic() < until and not set(expected) <= reports(folder, since).keys():
            time.sleep(0.2)
        if rank == 0:
            print(behind(folder, world, since), file=sys.stderr, flush=True)
        else:
            time.sleep(SAYING)


def reports(folder: Path, since: float) -> dict[int, dict[str, Any]]:
    """What processes have written since the run stood still (seconds since the epoch), by rank."""
    found: dict[int, dict[str, Any]] = {}
    for path in folder.glob("rank-*.json"):
        with suppress(OSError, ValueError):
            about = json.loads(path.read_text())
            if about["time"] > since:  # not of an earlier time that the run stood still
                found[about["rank"]] = about
    return found


def behind(folder: Path, world: int, since: float) -> str:
    """Which processes the others wait for."""
    found = reports(folder, since)
    silent = [rank for rank in range(world) if rank not in found]
    lines = [f"mmflow: no step for {time.time() - since:.0f} s"]
    if silent:
        lines.append(f"  ranks {silent} did not say where they are: their process or node is gone, or stands still")
    # Who waits in a collective waits for those who do not, and for those of an earlier step.
    last = min((about["step"] for about in found.values()), default=0)
    waiting = "collectives"
    late = [a for a in found.values() if a["step"] == last and waiting not in a["phase"]] or list(found.values())
    for about in sorted(late, key=lambda a: a["rank"])[:8]:
        keys = ", ".join(about["keys"][:4])
        where = f"step {about['step']}, {about['phase']}; {keys}"
        lines.append(f"  rank {about['rank']} on {about['node']} is behind: {where}")
    lines.append(f"  the stack of each: {folder}/rank-*.txt")
    return "\n".join(lines)
