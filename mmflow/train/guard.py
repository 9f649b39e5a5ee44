"""Numbers that go wrong: a step whose gradients are no numbers, or far too large, is skipped, and what led to it kept.

The decision falls on the norm of the gradients after they were summed over all processes, so it is the same on each.
"""

import json
import statistics
from collections import deque
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mmflow.train.parallel import whole_tensor

WARMUP = 20
"""Steps whose norms must be known before one is called a spike."""


class NumbersError(RuntimeError):
    """Too many steps of a run had to be skipped."""


def gradient_norm(module: torch.nn.Module) -> float:
    """Of all gradients together, each of which may be cut over processes; 0 if there are none."""
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    if not grads:
        return 0.0
    norms = [whole_tensor(norm).to(grads[0].device) for norm in torch._foreach_norm(grads)]
    return float(torch.linalg.vector_norm(torch.stack(norms)))


@final
class Guard(Callback):
    """Skips optimizer steps that would spoil the weights. The data goes on in its order, as if the step had been done.

    Every skipped step leaves `faults/step-000000123-rank-00000.json`: the last steps' samples, each with its t and
    loss, and their gradients' norms.

    Args:
        max_skipped: so many skipped ones among the last hundred optimizer steps end the run.
        spike: a norm of more than so many times the median of the last hundred is skipped too; 0 looks for NaN and Inf.
        remember: optimizer steps that are kept for the files.
    """

    def __init__(self, max_skipped: int = 10, spike: float = 0.0, remember: int = 20) -> None:
        if max_skipped < 0 or (spike and spike <= 1) or remember < 1:
            raise ValueError(
                f"need max_skipped >= 0, spike 0 or above 1, remember >= 1; got {max_skipped}, {spike}, {remember}"
            )
        self.max_skipped, self.spike = max_skipped, spike
        self.skipped = 0
        """Since the run began."""
        self._norms: deque[float] = deque(maxlen=100)
        self._bad: deque[int] = deque(maxlen=100)
        self._steps: deque[dict[str, Any]] = deque(maxlen=remember)
        self._samples: list[tuple[Any, ...]] = []
        """Of the micro-steps of this step: keys, visits, losses and t."""

    def state_dict(self) -> dict[str, Any]:
        """What a continued run judges its first steps by: without it they would have no median."""
        return {"skipped": self.skipped, "norms": list(self._norms), "bad": list(self._bad)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]
        self._norms.extend(state_dict["norms"])
        self._bad.extend(state_dict["bad"])

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        self._samples.append(pl_module.last_samples)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        norm = gradient_norm(pl_module.backbone)  # type: ignore[arg-type]
        self._steps.append({"step": trainer.global_step, "gradient_norm": norm, "samples": self._samples})
        why = self.verdict(norm)
        if why is None:
            pl_module.gradient_norm = norm  # type: ignore[assignment]
            self._norms.append(norm)
            self._bad.append(0)
            return
        self._bad.append(1)
        self.skipped += 1
        for p in pl_module.parameters():
            p.grad = None  # an optimizer leaves alone what has no gradient: moments, too
        place = self._keep(trainer, why)
        if trainer.is_global_zero:
            print(f"mmflow: step {trainer.global_step} is skipped: {why}; see {place}", flush=True)
        if sum(self._bad) > self.max_skipped:
            raise NumbersError(
                f"{sum(self._bad)} of the last {len(self._bad)} steps had to be skipped, more than guard.max_skipped "
                f"{self.max_skipped}; the last one, {trainer.global_step}, because of {why}. The samples, their t and "
                f"losses: {place.parent}"
            )

    def verdict(self, norm: float) -> str | None:
        """Why a step with gradients of that norm is skipped; None if it is not."""
        if not torch.isfinite(torch.tensor(norm)):
            return f"a gradient norm of {norm}"
        if self.spike and len(self._norms) >= WARMUP:
            median = statistics.median(self._norms)
            if norm > self.spike * median:
                return f"a gradient norm of {norm:.3g}, {norm / median:.0f} times the median of the last steps"
        return None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch.closes_step:
            self._samples = []
        if batch.closes_step and self.skipped:
            pl_module.log("skipped_steps", float(self.skipped), batch_size=1)

    def _keep(self, trainer: pl.Trainer, why: str) -> Path:
        folder = Path(trainer.default_root_dir) / "faults"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{trainer.global_step:09d}-rank-{trainer.global_rank:05d}.json"
        steps = [{**step, "samples": _plain(step["samples"])} for step in self._steps]
        path.write_text(json.dumps({"why": why, "steps": steps}, indent=1) + "\n")
        return path


def _plain(samples: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    found = []
    for keys, visits, loss, t in samples:
        for key, visit, each, time in zip(keys, visits, loss.tolist(), t.tolist(), strict=True):
            found.append({"key": list(key), "visit": visit, "t": time, "loss": each})
    return found
