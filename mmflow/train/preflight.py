"""What can go wrong in a run's first minutes and can be known before them."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

import mmflow
from mmflow.train.ema import find_ema

ROOM = 2.2
"""Checkpoints that must fit on the disk: one that is being written beside the one that it follows."""


class PreflightError(RuntimeError):
    """A run cannot begin here."""


def code_hash() -> str:
    """Of the package's source."""
    root, found = Path(mmflow.__file__).parent, hashlib.blake2b(digest_size=8)
    for path in sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def checkpoint_bytes(trainer: pl.Trainer, pl_module: Any) -> int:
    """About how large one is: weights, two moments, and the averages, in fp32."""
    ema = find_ema(trainer)
    parameters: int = sum(p.numel() for p in pl_module.backbone.parameters())
    return 4 * (3 + (len(ema.decays) if ema else 0)) * parameters


@final
class Preflight(Callback):
    """Compares configuration and code of all processes, and looks for room on the disk, before the first step.

    Args:
        config: the resolved configuration as YAML.
    """

    def __init__(self, config: str) -> None:
        self.config = config

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops a run that cannot go well.

        Raises:
            PreflightError: on every process, with one message.
        """
        own = {
            "configuration": hashlib.blake2b(self.config.encode(), digest_size=8).hexdigest(),
            "code of mmflow": code_hash(),
            "torch": torch.__version__,
            "checkpoint to continue": str(trainer.ckpt_path),
            "trouble": self._trouble(trainer, pl_module),
            "node": os.uname().nodename,
        }
        everyone: list[Any] = [own]
        if trainer.world_size > 1:
            everyone = [None] * trainer.world_size
            dist.all_gather_object(everyone, own)
            total = trainer.strategy.reduce(torch.ones((), device=pl_module.device), reduce_op="sum")
            if int(total) != trainer.world_size:
                raise PreflightError(f"a sum over {trainer.world_size} processes gave {float(total)}")
        found = [t for each in everyone for t in [each["trouble"]] if t]
        for what in ("configuration", "code of mmflow", "torch", "checkpoint to continue"):
            groups: dict[str, list[int]] = {}
            for rank, each in enumerate(everyone):
                groups.setdefault(each[what], []).append(rank)
            if len(groups) > 1:
                sides = "; ".join(
                    f"{value}: ranks {ranks[:4]} (node {everyone[ranks[0]]['node']})" for value, ranks in groups.items()
                )
                found.append(f"the processes differ in their {what}: {sides}")
        if found:
            raise PreflightError("\n".join(dict.fromkeys(found)))

    @staticmethod
    def _trouble(trainer: pl.Trainer, pl_module: pl.LightningModule) -> str:
        folder = Path(trainer.default_root_dir)
        writes = trainer.is_global_zero or bool(pl_module.parallel.shard)  # type: ignore[union-attr]
        if not writes:
            return ""
        probe = folder / f".writable-{trainer.global_rank}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            return f"rank {trainer.global_rank} on {os.uname().nodename} cannot write into {folder}: {error.strerror}"
        need, free = ROOM * checkpoint_bytes(trainer, pl_module), shutil.disk_usage(folder).free
        if free < need:
            return (
                f"{folder} has {free / 1e9:.2f} GB free, two checkpoints of this model take {need / 1e9:.2f} GB: make "
                "room, or choose another --trainer.default_root_dir"
            )
        return ""
