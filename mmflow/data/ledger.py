"""What became of the samples: used, or not and why."""

import warnings
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch.distributed as dist

from mmflow.batch import Batch, Key

JUDGED_FROM, JUDGED = 1000, 10_000
"""Of the last `JUDGED` samples the share of unreadable ones is judged, once there are `JUDGED_FROM`."""
USED = "used"
EXAMPLES = 5
"""Samples that are named for each reason."""


def _place(key: Key, shape: tuple[int, ...]) -> tuple[str, str]:
    """(source and medium, bucket) of a planned sample."""
    return f"{key[0]}/{'picture' if shape[0] == 1 else 'clip'}", "x".join(map(str, shape))


@final
class Ledger:
    """Counts of this rank's samples by fate.

    A set of less than `JUDGED_FROM` samples is not judged by shares, which say little there: it fails when it has
    nothing left, i.e. when as many samples in a row as it has could not be read.

    Args:
        max_bad_fraction: more unreadable samples than this share end the run.
    """

    def __init__(self, max_bad_fraction: float) -> None:
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f"data.max_bad_fraction must lie in [0, 1], got {max_bad_fraction}")
        self.max_bad_fraction = max_bad_fraction
        self.size: int | None = None
        """Samples of the set; None is endless."""
        self.counts: Counter[str] = Counter()
        self.fates: Counter[tuple[str, str, str]] = Counter()
        """(source and medium, bucket, fate): every planned sample is in exactly one of these counts."""
        self.examples: dict[str, list[str]] = {}
        self._recent: deque[tuple[int, int]] = deque()
        """(samples, bad ones) of each of the last batches."""
        self._seen = self._bad = self._bad_in_a_row = 0

    def record(self, batch: Batch) -> None:
        """Counts a batch; the first hole of each reason is told.

        Raises:
            RuntimeError: if too many samples are bad.
        """
        self.counts[USED] += len(batch)
        for hole in batch.holes:
            said = f"{'/'.join(map(str, hole.key))}: {hole.detail}"
            named = self.examples.setdefault(hole.reason, [])
            if not named:
                warnings.warn(f"a sample cannot be read ({hole.reason}), {said}", stacklevel=2)
            if len(named) < EXAMPLES and said not in named:
                named.append(said)
            self.counts[hole.reason] += 1
            self.fates[(*_place(hole.key, hole.shape), hole.reason)] += 1
        shapes = (tuple(p.shape[2:]) for p, e in zip(batch.pixels, batch.eps, strict=True) for _ in range(len(e)))
        for key, shape, fate in zip(batch.keys, shapes, batch.fates or ("whole",) * len(batch), strict=True):
            self.fates[(*_place(key, shape), fate)] += 1
        self._remember(len(batch) + len(batch.holes), len(batch.holes))
        self._judge()

    def _remember(self, samples: int, bad: int) -> None:
        self._recent.append((samples, bad))
        self._seen, self._bad = self._seen + samples, self._bad + bad
        while self._seen - self._recent[0][0] >= JUDGED:
            old_samples, old_bad = self._recent.popleft()
            self._seen, self._bad = self._seen - old_samples, self._bad - old_bad
        self._bad_in_a_row = self._bad_in_a_row + bad if bad == samples else 0

    def _judge(self) -> None:
        what = f"{dict(self.counts)}. See ledger.json, and run python tools/shards.py verify on the shards"
        if self.size is not None and self.size < JUDGED_FROM:
            if self._bad_in_a_row >= self.size:
                raise RuntimeError(f"none of the {self.size} samples can be read any more: {what}")
        elif self._seen >= JUDGED_FROM and self._bad > self.max_bad_fraction * self._seen:
            raise RuntimeError(
                f"{self._bad} of the last {self._seen} samples could not be read, more than data.max_bad_fraction "
                f"{self.max_bad_fraction}: {what}"
            )

    def restore(self, samples: Mapping[str, int], fates: Sequence[Sequence[Any]]) -> None:
        """Counts of a checkpoint: what `total` and `rows` gave."""
        self.counts = Counter(samples)
        self.fates = Counter({(source, bucket, fate): number for source, bucket, fate, number in fates})

    def rows(self) -> list[tuple[str, str, str, int]]:
        """(source and medium, bucket, fate, samples) over all ranks. To be called on every rank."""
        fates = sum((Counter(more) for *_, more in self._of_all_ranks()), Counter[tuple[str, str, str]]())
        return [(*each, number) for each, number in sorted(fates.items())]

    def total(self) -> dict[str, int]:
        """The counts of all ranks. To be called on every rank."""
        return dict(sum((Counter(counts) for counts, *_ in self._of_all_ranks()), Counter[str]()))

    def summary(self, all_ranks: bool = True) -> dict[str, Any]:
        """Counts, and for every reason some samples by name.

        all_ranks  to be called on every rank; else of this one
        """
        parts = self._of_all_ranks() if all_ranks else [(self.counts, self.examples, self.fates)]
        named: dict[str, list[str]] = {}
        for _, examples, _ in parts:
            for reason, some in examples.items():
                named.setdefault(reason, []).extend(some)
        counts = dict(sum((Counter(counts) for counts, *_ in parts), Counter[str]()))
        fates = sum((Counter(more) for *_, more in parts), Counter[tuple[str, str, str]]())
        rows = [(*each, number) for each, number in sorted(fates.items())]
        return {
            "samples": counts,
            "fates": rows,
            "examples": {reason: some[:EXAMPLES] for reason, some in named.items()},
        }

    def _of_all_ranks(self) -> list[Any]:
        own = (dict(self.counts), self.examples, dict(self.fates))
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return [own]
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, own)
        return parts
