"""What a cell came to, without its weights: all that tables, curves, ranks and laws are made of."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from mmflow.study.folder import score_name
from mmflow.study.logged import losses as media_losses
from mmflow.study.plan import Study

Numbers = dict[str, Any]


@final
@dataclass(frozen=True)
class Results:
    """Of one cell, from its folder or from the study's records.

    Attributes:
        controls: what it has in common with the other cells.
        picked: `step` and `val_loss` of the checkpoint that was picked, and `losses`, by step, of all.
        seconds: of training.
        scores: name of weights and sampling setting -> numbers.
        size: of a study with a curve: parameters, and FLOPs of a step.
        curve: of a study with a curve: optimizer steps done -> numbers.
        media: of a study with a curve: optimizer steps done -> validation losses by medium.
    """

    controls: dict[str, Any]
    picked: Numbers
    seconds: float
    scores: dict[str, Numbers]
    size: Numbers | None = None
    curve: dict[int, Numbers] = field(default_factory=dict)
    media: dict[int, dict[str, float]] = field(default_factory=dict)

    def is_whole(self, study: Study) -> bool:
        """Whether nothing that the study asks for is missing."""
        asked = {score_name(weights, setting) for weights in study.weights for setting in study.settings}
        return asked <= self.scores.keys() and (not study.curve or (self.size is not None and bool(self.curve)))


def read_folder(folder: Path) -> Results | None:
    """Of a cell's folder; None while no checkpoint is picked there."""
    if not (folder / "picked.json").is_file():
        return None
    size = folder / "size.json"
    has_losses = size.is_file() and (folder / "run" / "metrics.csv").is_file()
    return Results(
        controls=_json(folder / "controls.json"),
        picked=_json(folder / "picked.json"),
        seconds=float(_json(folder / "seconds.json")),
        scores={path.stem: _json(path) for path in sorted((folder / "scores").glob("*.json"))},
        size=_json(size) if size.is_file() else None,
        curve={int(path.stem.split("-")[1]): _json(path) for path in sorted((folder / "curve").glob("step-*.json"))},
        media=media_losses(folder / "run") if has_losses else {},
    )


def _json(path: Path) -> Any:
    return json.loads(path.read_text())
