"""What became of the samples: used, or not and why."""

from collections import Counter
from typing import Any, final

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn

from mmflow.batch import Batch

JUDGED_FROM = 1000
"""Samples after which the share of unreadable ones is judged."""
USED = "used"


@final
class Ledger:
    """Counts of this rank's samples by fate.

    Args:
        max_bad_fraction: more unreadable samples than this share end the run.
    """

    def __init__(self, max_bad_fraction: float) -> None:
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction must lie in [0, 1], got {max_bad_fraction}")
        self.max_bad_fraction = max_bad_fraction
        self.counts: Counter[str] = Counter()

    def record(self, batch: Batch) -> None:
        """Counts a batch; the first hole of each reason is told.

        Raises:
            RuntimeError: if too many samples are bad.
        """
        self.counts[USED] += len(batch)
        for hole in batch.holes:
            if not self.counts[hole.reason]:
                rank_zero_warn(f"{'/'.join(map(str, hole.key))} cannot be read ({hole.reason}): {hole.detail}")
            self.counts[hole.reason] += 1
        total = self.counts.total()
        bad = total - self.counts[USED]
        if total >= JUDGED_FROM and bad > self.max_bad_fraction * total:
            raise RuntimeError(
                f"{bad} of {total} samples could not be read ({dict(self.counts)}), more than data.max_bad_fraction "
                f"{self.max_bad_fraction}: run python tools/shards.py verify on the shards"
            )

    def total(self) -> dict[str, int]:
        """The counts of all ranks. To be called on every rank."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return dict(self.counts)
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, dict(self.counts))
        return dict(sum((Counter(part) for part in parts), Counter[str]()))
