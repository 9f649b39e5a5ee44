"""What ends a run: `trainer.max_steps` or `trainer.max_time`, and how much of it is done."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer


def share_done(trainer: pl.Trainer) -> float:
    """In [0, 1], of `max_steps` or of `max_time`, whichever is further; 0 for an endless run."""
    shares, time = [0.0], _seconds(trainer)
    if trainer.max_steps > 0:
        shares.append(trainer.global_step / trainer.max_steps)
    if time is not None:
        elapsed, left = time
        shares.append(elapsed / max(elapsed + left, 1.0))
    return min(max(shares), 1.0)


def limit_reached(trainer: pl.Trainer) -> str | None:
    """In words, the limit at which the run is; None while it is at none."""
    if trainer.max_steps == trainer.global_step:
        return f"trainer.max_steps is {trainer.max_steps}"
    time = _seconds(trainer)
    return "trainer.max_time is used up" if time is not None and time[1] <= 0 else None


def _seconds(trainer: pl.Trainer) -> tuple[float, float] | None:
    """Trained, in all starts of the run, and left; None without `max_time`."""
    timer = next((c for c in trainer.callbacks if isinstance(c, Timer)), None)  # type: ignore[attr-defined]
    left = None if timer is None else timer.time_remaining()
    return None if timer is None or left is None else (timer.time_elapsed(), left)
