"""What ends a run: `trainer.max_steps` or `trainer.max_time`, and how much of it is done."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer


def share_done(trainer: pl.Trainer) -> float:
    """In [0, 1], of `max_steps` or of `max_time`, whichever is further; 0 for an endless run."""
    shares = [0.0]
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    timer = _timer(trainer)
    left = timer.time_remaining() if timer is not None else None
    if timer is not None and left is not None:
        elapsed = timer.time_elapsed()
        shares.append(elapsed / max(elapsed + left, 1.0))
    return min(max(shares), 1.0)


def limit_reached(trainer: pl.Trainer) -> str | None:
    """In words, the limit at which the run is; None while it is at none."""
    if trainer.max_steps == trainer.global_step:
        return f"trainer.max_steps is {trainer.max_steps}"
    timer = _timer(trainer)
    left = timer.time_remaining() if timer is not None else None
    return "trainer.max_time is used up" if left is not None and left <= 0 else None


def _timer(trainer: pl.Trainer) -> Timer | None:
    return next((c for c in trainer.callbacks if isinstance(c, Timer)), None)  # type: ignore[attr-defined]
