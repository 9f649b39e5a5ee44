"""Whether a run's memory suffices, known before its first step instead of in its third night.

The pack of the plan that asks for most is done once, forward and backward, beside everything that training holds, and
leaves nothing behind. What it finds too little is said in words that name the pack, the process and what to change.
"""

import os
import sys
from collections import Counter
from contextlib import nullcontext
from typing import Any, Literal, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from mmflow.batch import Batch, Groups
from mmflow.train.goodput import counted_as
from mmflow.train.parallel import Parallel, sharded_parts, sync_gradients
from mmflow.train.predictions import gather
from mmflow.train.preflight import PreflightError
from mmflow.train.replay import density_of, gradients

MOMENTS = 2
"""Tensors per parameter that an optimizer makes in its first step."""


Sizes = tuple[torch.Size, ...]
"""(B, C, T, H, W) of each group of a pack's latents."""


def sizes_of(latents: Groups) -> Sizes:
    """Of a pack; keeps none of it in memory."""
    return tuple(z.shape for z in latents if len(z))


def shapes_of(sizes: Sizes) -> str:
    """Samples of a pack by the shape of their latents, for people."""
    counts: Counter[tuple[int, ...]] = Counter()
    for size in sizes:
        counts[tuple(size[2:])] += size[0]
    parts = [f"{number} of {' x '.join(map(str, shape))}" for shape, number in sorted(counts.items(), reverse=True)]
    return ", ".join(parts) or "no samples"


def way_out(num_samples: int, tokens_per_device: int | None, tokens: int, is_shapes: bool, parallel: Parallel) -> str:
    """The key to lower, and what else helps.

    Args:
        num_samples: of the pack.
        tokens_per_device: `data.tokens_per_device`.
        tokens: of the pack.
        is_shapes: whether the samples are of the shapes world.
        parallel: the layout.
    """
    if num_samples < 2:
        names = ("world.size", "world.frames") if is_shapes else ("resolution", "frames")
        said = f"lower data.{names[0]} or data.{names[1]}: one sample is too large"
    elif tokens_per_device is not None:
        said = f"lower data.tokens_per_device, now {tokens_per_device}"
    else:
        said = (
            f"set data.tokens_per_device below {tokens}, from which more micro-steps follow, or lower data.batch_size"
        )
    if parallel.recompute == "none":
        said += "; or have blocks computed again: model.parallel.recompute block"
    if not parallel.shard:
        said += "; or cut the weights over processes: model.parallel.shard true"
    return said


@final
class Rehearsal(Callback):
    """Does the costliest pack of the plan before the first step, and says what an error for want of memory means.

    Args:
        when: `accelerator`, `always`, or `never`.
    """

    def __init__(self, when: Literal["accelerator", "always", "never"] = "accelerator") -> None:
        self.when = when
        self._sizes: Sizes = ()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Rehearses, on all processes alike.

        Raises:
            PreflightError: on every process, if there is too little memory on one.
        """
        on_cpu = pl_module.device.type == "cpu"
        if self.when == "never" or (self.when == "accelerator" and on_cpu):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        trouble, shapes = "", ""
        with counted_as(trainer, "restart"):
            pack, tokens = data.costliest_pack()
            try:
                batch: Batch | None = data.encoded(pack.to(pl_module.device))
                assert batch is not None and batch.latents is not None
                shapes = shapes_of(sizes_of(batch.latents))
                rehearse(trainer, pl_module, batch)
            except torch.OutOfMemoryError as error:
                batch = None  # what is held in the way of the message
                place = f"the costliest pack of the plan, {shapes or 'while it was encoded'}, {tokens} tokens"
                trouble = told(trainer, pl_module, len(pack), tokens, place, error)
            finally:
                pl_module.zero_grad()
        if not on_cpu:
            torch.cuda.empty_cache()
        if trouble and sharded_parts(pl_module.backbone) and not trainer.is_global_zero:
            print(
                f"mmflow: {trouble}", file=sys.stderr, flush=True
            )  # the others may wait for this one, and say nothing
        found = [trouble] if sharded_parts(pl_module.backbone) else gather(trainer, [trouble])
        if any(found):
            raise PreflightError(next(each for each in found if each))
        if trainer.is_global_zero:
            peak = (
                "" if on_cpu else f", {torch.cuda.max_memory_allocated(pl_module.device) / 2**30:.1f} GiB at its peak"
            )
            print(f"rehearsed: the costliest pack, {shapes}, {tokens} tokens{peak}", flush=True)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        assert batch.latents is not None
        self._sizes = sizes_of(batch.latents)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        if not isinstance(exception, torch.OutOfMemoryError) or not self._sizes:
            return
        tokens = sum(size[0] * pl_module.backbone.check_shape(*size[2:]) for size in self._sizes)
        place = f"step {trainer.global_step}, {shapes_of(self._sizes)}, {tokens} visual tokens"
        number = sum(size[0] for size in self._sizes)
        print(f"mmflow: {told(trainer, pl_module, number, tokens, place, exception)}", file=sys.stderr, flush=True)


def told(trainer: pl.Trainer, module: Any, num_samples: int, tokens: int, place: str, error: BaseException) -> str:
    """What was too large, where, and the way out."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    out = way_out(num_samples, data.step_size.tokens_per_device, tokens, data.is_shapes, module.parallel)
    said = str(error).strip().splitlines()
    return (
        f"rank {trainer.global_rank} on {os.uname().nodename} has too little memory for {place} (latents, T x H x W): "
        f"{out}" + (f"\n  {said[0]}" if said else "")
    )


def rehearse(trainer: pl.Trainer, module: Any, batch: Batch) -> None:
    """One forward and backward, as full as memory will ever be; the gradients are to be taken away after it."""
    (optimizer,) = trainer.optimizers
    parameters = list(module.backbone.parameters())
    # What the optimizer will have made by its second step; a continued one has it.
    ballast = [] if optimizer.state else [torch.empty_like(p) for p in parameters for _ in range(MOMENTS)]
    sync_gradients(module.backbone, module.parallel, closes_step=True)
    knew = density_of(module)
    alone = getattr(trainer.strategy, "block_backward_sync", nullcontext)
    try:
        with alone():
            gradients(module, batch)
    finally:
        del ballast
        if knew:
            module.density.load_state_dict(knew)
