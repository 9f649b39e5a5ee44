"""The run directory: what may be started where, and what a run leaves beside its checkpoints."""

import json
import os
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.distributed.fsdp import FSDPModule

import mmflow
from mmflow.metrics.surface_file import surface_paths
from mmflow.train.accounts import close_books
from mmflow.train.history import append, came_to_its_end
from mmflow.train.loggers import RunCsv
from mmflow.train.pending import KEY as PENDING
from mmflow.train.pending import log_pending, pending_row
from mmflow.train.precedence import FORMAT, Changes, told
from mmflow.train.saved import newest
from mmflow.train.stock import obstacles, verdict

TRACES = ("config.yaml", "metrics.csv", "checkpoints", "results.json")
LAST = "last"


def is_used(folder: Path) -> bool:
    """Whether a run has left something there."""
    return any((folder / name).exists() for name in TRACES)


def start(folder: Path, ckpt_path: str | None, resume: str) -> str | None:
    """What a `fit` into `folder` starts from: the checkpoint to continue, or None for step 0.

    Args:
        folder: the run directory.
        ckpt_path: as the user gave it: a file, a run directory, `last`, or None.
        resume: `never`, or `auto`: continue where there is a checkpoint, start where there is none.

    Raises:
        ValueError: if the folder belongs to an earlier run and nobody asked to continue it, or there is nothing to
            continue.
    """
    last = newest(folder)
    if resume == "auto" and ckpt_path in (None, LAST):
        return str(last) if last else None
    if ckpt_path == LAST:
        if last is None:
            raise ValueError(
                f"--ckpt_path last: {folder / 'checkpoints'} holds no checkpoint. Start without --ckpt_path, or let a "
                "run that may or may not have begun take --resume auto"
            )
        return str(last)
    if ckpt_path is None and is_used(folder):
        raise ValueError(
            f"the run directory {folder} is in use by an earlier run. Continue it: --ckpt_path last. "
            "Or start another: --trainer.default_root_dir OTHER_FOLDER"
        )
    return ckpt_path


def make_writable(folder: Path) -> None:
    """Creates the run directory.

    Raises:
        ValueError: if nothing can be written there.
    """
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"cannot write into the run directory {folder}: {error.strerror}. Choose another: "
            "--trainer.default_root_dir FOLDER"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Written whole or not at all."""
    writing = path.with_name(f".{path.name}.part")
    writing.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(writing, path)


def describe(trainer: pl.Trainer, pl_module: Any, changed: Changes) -> list[str]:
    """What this run is, in a few lines for people."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    parameters = sum(p.numel() for p in pl_module.backbone.parameters())
    return [
        f"run: {trainer.default_root_dir}" + (f", continued from {trainer.ckpt_path}" if trainer.ckpt_path else ""),
        f"model: {class_name(pl_module.backbone)}, {parameters / 1e6:.1f} M parameters, "
        f"{'bf16' if pl_module.autocast_dtype else 'fp32'} on {pl_module.device.type}",
        *(pl_module.start_lines if trainer.ckpt_path is None else []),
        *told(changed),
        *data.describe(),
        *data.cache_use.lines(data.batch_size),
        *layout_lines(pl_module, trainer),
        *verdict(obstacles(pl_module, data.encoders)),
    ]


def nothing_to_train(trainer: pl.Trainer, limit: str) -> str:
    """What to say of a run that was complete before it was started again, by `limit`."""
    run = trainer.default_root_dir
    said = f"mmflow: nothing to train: {run} is at step {trainer.global_step}, and {limit} (a larger one trains on)"
    if not came_to_its_end(Path(run)):
        said += f". Its end was cut off: python -m mmflow test --ckpt_path {run} makes samples and scores of it"
    return said


def class_name(network: Any) -> str:
    """Of a network, whether or not FSDP has put a class of its own before it."""
    return next(kind.__name__ for kind in type(network).__mro__ if not issubclass(kind, FSDPModule))


def layout_lines(pl_module: Any, trainer: pl.Trainer) -> list[str]:
    """How the network lies over the processes, if it is not whole on each of them, and what of it is compiled."""
    lines, parallel = [], pl_module.parallel
    if parallel.shard:
        replicas, shards = parallel.mesh_shape(trainer.world_size, trainer.num_nodes)
        lines.append(f"layout: weights cut over {shards} process(es)" + f" x {replicas} replicas" * (replicas > 1))
    if parallel.recompute != "none" or parallel.compile:
        compiled = "compiled in the first step, which takes a minute" if pl_module.is_compiled else "not compiled"
        lines.append(f"blocks: recompute {parallel.recompute}, {compiled}")
    return lines


@final
class RunRecord(Callback):
    """Keeps `config.yaml` and `ledger.json`, and cuts `metrics.csv` and `surface/` back where a run continues.

    Args:
        config: the resolved configuration as YAML.
        changed: what of it differs from that of the checkpoint that the run is continued from.
    """

    def __init__(self, config: str, changed: Changes | None = None) -> None:
        self.config, self.changed = config, changed or {}
        self._pending: dict[str, Any] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "config.yaml"
            writing = path.with_suffix(".part")
            writing.write_text(self.config)
            os.replace(writing, path)
            print("\n".join(describe(trainer, pl_module, self.changed)), flush=True)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        path = Path(trainer.default_root_dir) / "wandb_id"
        checkpoint["wandb_id"] = path.read_text().strip() if path.is_file() else None
        checkpoint["config"] = self.config
        checkpoint[PENDING] = pending_row(trainer)
        checkpoint["mmflow"] = {"format": FORMAT, "version": mmflow.__version__}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._pending = checkpoint.get(PENDING)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, RunCsv):
                logger.cut_back(trainer.global_step)
        log_pending(trainer, self._pending)
        if trainer.is_global_zero:
            for step, path in surface_paths(Path(trainer.default_root_dir)).items():
                if step > trainer.global_step:
                    path.unlink()
            append(
                Path(trainer.default_root_dir),
                "start" if trainer.ckpt_path is None else "continue",
                trainer.global_step,
                checkpoint=None if trainer.ckpt_path is None else str(trainer.ckpt_path),
                changed=self.changed,
                processes=trainer.world_size,
                nodes=trainer.num_nodes,
                versions={"mmflow": mmflow.__version__, "torch": torch.__version__},
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if batch.closes_step and not data.is_shapes and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            bad = {reason: n for reason, n in data.ledger.total().items() if reason != "used"}
            numbers = {f"data/bad_{reason}": float(n) for reason, n in bad.items()}
            pl_module.log_dict({"data/bad": float(sum(bad.values())), **numbers}, batch_size=1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        summary = data.ledger.summary()
        if trainer.is_global_zero:
            summary |= data.mix.accounts(summary["fates"], data.position)
        self._write_ledger(trainer, summary)
        if trainer.is_global_zero:
            append(Path(trainer.default_root_dir), "end", trainer.global_step)
            if not data.is_shapes:
                close_books(trainer, summary)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.training and trainer.global_step + data.position:
            self._write_ledger(trainer, data.ledger.summary(all_ranks=False))  # the others may be gone

    @staticmethod
    def _write_ledger(trainer: pl.Trainer, summary: dict[str, Any]) -> None:
        """`ledger.json`, and a line where samples could not be read."""
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        write_json(Path(trainer.default_root_dir) / "ledger.json", {"position": data.position, **summary})
        bad = {reason: number for reason, number in summary["samples"].items() if reason != "used"}
        if bad:
            reasons = ", ".join(f"{number} {reason}" for reason, number in bad.items())
            print(f"data: {sum(bad.values())} samples could not be read ({reasons}): see ledger.json", flush=True)
