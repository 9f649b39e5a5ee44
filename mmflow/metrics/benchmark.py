"""Benchmarks whose prompts are of several kinds, each judged in its own way."""

from abc import abstractmethod
from typing import Any

from mmflow.metrics.features import AbstractJudge
from mmflow.metrics.scoring import Share
from mmflow.metrics.store import Store


class AbstractBenchmark(AbstractJudge):
    """Scores of a store by the kind of each prompt."""

    @abstractmethod
    def of_store(self, store: Store, share: Share) -> dict[str, dict[str, Any]]:
        """Scores by name: value, low, high, n; what was said before is not asked again.

        Raises:
            ValueError: if samples are missing or too many, or no prompt is the benchmark's.
        """
