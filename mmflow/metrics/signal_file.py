"""Signals on disk: `RUN/signals/step-000001000/scores.json`, which is there once the round is whole."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmflow.metrics.interval import Interval

FOLDER = "signals"
FILE = "scores.json"


@dataclass(frozen=True)
class Round:
    """The scores of one step.

    Attributes:
        step: optimizer steps of the weights.
        scores: per kind of weights, by name.
        lower_is_better: names of those where less is better.
        identity: what they depend on, by judge; `samples` is that of the pictures.
        seconds: that making and judging took.
        share: of the training time that all rounds so far took.
        prompts: by place, of the pictures in the table of prompts and steps.
    """

    step: int
    scores: Mapping[str, Mapping[str, Interval]]
    lower_is_better: tuple[str, ...]
    identity: Mapping[str, Any]
    seconds: float
    share: float
    prompts: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Last of a round's files."""
        writing = folder / f".{FILE}.part"
        writing.write_text(json.dumps(asdict(self), indent=1) + "\n")
        writing.replace(folder / FILE)


def folder_of(run: Path, step: int) -> Path:
    """Where the pictures and scores of a step lie."""
    return run / FOLDER / f"step-{step:09d}"


def read_rounds(run: Path) -> dict[int, Round]:
    """Optimizer steps -> round, of all that a run has left, in order.

    Raises:
        ValueError: if a file is none.
    """
    found = {}
    for path in sorted((run / FOLDER).glob(f"step-*/{FILE}")):
        try:
            plain = json.loads(path.read_text())
            scores = {k: {n: Interval(**s) for n, s in each.items()} for k, each in plain.pop("scores").items()}
            each = Round(scores=scores, **{**plain, "lower_is_better": tuple(plain["lower_is_better"])})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not what a round of signals leaves: {error}") from error
        found[each.step] = each
    return found
