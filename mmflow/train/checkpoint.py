"""When a run saves, and what becomes of a save that fails."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch.distributed.checkpoint.api import CheckpointException

from mmflow.train.goodput import counted_as, ledger_of
from mmflow.train.predictions import gather
from mmflow.train.saved import name_of, publish, remove, retain, sweep


class SaveError(RuntimeError):
    """A checkpoint could not be written."""


@final
class Checkpoints(Callback):
    """Saves `checkpoints/step-000001000.ckpt` after optimizer steps and at the end; `last.ckpt` is the newest.

    A checkpoint is written under another name, brought to the disk, renamed, and marked as whole last, so that a stop
    at any moment leaves the previous one.

    Args:
        every_n_steps: optimizer steps between checkpoints.
        keep: numbered checkpoints that are kept, the newest ones; -1 keeps all.
        on_error: what a run does that cannot write, because its disk is full or no longer writable: `stop`, or
            `continue` and try again at the next checkpoint. The last good one is kept either way.
    """

    def __init__(
        self, every_n_steps: int = 1000, keep: int = 2, on_error: Literal["stop", "continue"] = "stop"
    ) -> None:
        if every_n_steps < 1 or keep == 0 or keep < -1:
            raise ValueError(f"need every_n_steps >= 1 and keep >= 1 or -1, got {every_n_steps} and {keep}")
        self.every_n_steps, self.keep, self.on_error = every_n_steps, keep, on_error
        self._last_step = -1

    @staticmethod
    def folder(trainer: pl.Trainer) -> Path:
        """Where a run's checkpoints lie."""
        return Path(trainer.default_root_dir) / "checkpoints"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step
        if trainer.is_global_zero:
            sweep(self.folder(trainer))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step != self._last_step and trainer.global_step % self.every_n_steps == 0:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._last_step:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes a numbered checkpoint. To be called on every rank.

        Raises:
            SaveError: on every rank, if it could not be written and `on_error` is `stop`.
        """
        folder, step = self.folder(trainer), trainer.global_step
        self._last_step = step
        writing = folder / f".{name_of(step)}.part"
        with counted_as(trainer, "save"):
            failures = self._save(trainer, writing, step)
        ledger = ledger_of(trainer)
        if failures:
            self._failed(trainer, writing, failures)
        elif ledger is not None:
            ledger.saved()

    def _save(self, trainer: pl.Trainer, writing: Path, step: int) -> list[str]:
        content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        # Lightning's own save has a barrier at its end, which a rank that failed never reaches.
        failures = self._all(trainer, lambda: trainer.strategy.save_checkpoint(content, writing))
        if not failures:
            failures = self._all(trainer, lambda: self._publish(trainer, writing, step))
        return failures

    def _publish(self, trainer: pl.Trainer, writing: Path, step: int) -> None:
        if trainer.is_global_zero:
            publish(writing, step)
            retain(writing.parent, self.keep)

    @staticmethod
    def _all(trainer: pl.Trainer, action: Any) -> list[str]:
        """Does it on every rank; why it failed, on whichever ranks it did."""
        failure = ""
        try:
            action()
        except (OSError, RuntimeError, CheckpointException) as error:
            failure = f"rank {trainer.global_rank}: {error}"
        return [each for each in gather(trainer, [failure]) if each]

    def _failed(self, trainer: pl.Trainer, writing: Path, failures: list[str]) -> None:
        if trainer.is_global_zero:
            with suppress(OSError):  # a disk that cannot be written is swept when the run is continued
                remove(writing)
        said = (
            f"the checkpoint of step {trainer.global_step} could not be written to {writing.parent} "
            f"({'; '.join(failures[:3])}). The last good one is kept"
        )
        if self.on_error == "stop":
            raise SaveError(f"{said}. Make room, then continue: --ckpt_path last")
        if trainer.is_global_zero:
            print(f"mmflow: {said}; the run goes on (checkpoints.on_error continue)", flush=True)
