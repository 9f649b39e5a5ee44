"""Does the loss say what the scores say? For the run's own checkpoints, after every validation, in W&B and on disk."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from mmflow.metrics.correlation import COEFFICIENTS, MIN_POINTS
from mmflow.metrics.evidence import Evidence, gather_evidence
from mmflow.metrics.paired import OVERALL
from mmflow.metrics.recommend import Recommendation, agreement, recommend
from mmflow.metrics.signal_file import read_rounds
from mmflow.metrics.surface_file import surface_paths
from mmflow.train.loggers import Chart, Grid, find_wandb

FILE = "preference.json"


def table_of(evidence: Evidence) -> list[dict[str, Any]]:
    """A row per score, stratum and coefficient: agreement (minus the correlation with the loss) with its interval.

    Raises:
        ValueError: if there are fewer than 8 checkpoints.
    """
    rows = []
    for score in evidence.scores():
        for stratum in evidence.strata():
            for name in COEFFICIENTS:
                value, low, high, effective = agreement(evidence, score, stratum, name)
                rows.append(
                    {
                        "score": score,
                        "stratum": stratum,
                        "coefficient": name,
                        "agreement": value,
                        "low": low,
                        "high": high,
                        "n": len(evidence.points),
                        "effective": effective,
                    }
                )
    return rows


def recommendations(evidence: Evidence) -> tuple[list[Recommendation], list[str]]:
    """One per score, and why there is none of the others."""
    found, refused = [], []
    for score in evidence.scores():
        try:
            found.append(recommend(evidence, score))
        except ValueError as error:
            refused.append(str(error))
    return found, refused


def plain(evidence: Evidence) -> dict[str, Any]:
    """All that can be said, in plain values."""
    found, refused = recommendations(evidence)
    return {
        "weights": evidence.kind,
        "checkpoints": {run: [point.step for point in points] for run, points in evidence.runs.items()},
        "agreement": table_of(evidence) if len(evidence.points) >= MIN_POINTS else [],
        "recommendations": [
            {
                "score": each.score,
                "run": each.run,
                "step": each.step,
                "sure": each.sure,
                "others": each.others,
                "effective": each.effective,
                "predictors": [{"stratum": p.stratum, "skill": p.skill, "error": p.error} for p in each.best],
                "said": each.sentence(),
            }
            for each in found
        ],
        "refused": refused,
    }


@final
class Preference(Callback):
    """Writes `preference.json` and to W&B: agreement of every loss stratum with every score, a scatter of each score,
    which stratum predicts best on held-out checkpoints, and which checkpoint to keep.

    Speaks once 8 checkpoints were both validated and scored: `signals.every_n_steps` as `trainer.val_check_interval`.

    Args:
        enabled: whether it does anything.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.enabled and trainer.state.fn == "fit" and trainer.is_global_zero and not trainer.sanity_checking:
            self.update(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        path = Path(trainer.default_root_dir) / FILE
        if self.enabled and trainer.is_global_zero and path.is_file():
            said = json.loads(path.read_text())
            lines = [each["said"] for each in said["recommendations"]] + said["refused"]
            print("\n".join(f"preference: {line}" for line in lines))

    @staticmethod
    def update(trainer: Any) -> None:
        """Says what can be said by now; nothing before there are enough checkpoints."""
        run = Path(trainer.default_root_dir)
        if len(surface_paths(run).keys() & read_rounds(run).keys()) < MIN_POINTS:
            return
        evidence = gather_evidence([run])
        found = plain(evidence)
        writing = run / f".{FILE}.part"
        writing.write_text(json.dumps(found, indent=1) + "\n")
        writing.replace(run / FILE)
        wandb = find_wandb(trainer.loggers)
        if wandb is not None:
            wandb.show(trainer.global_step, charts=scatters(evidence), grids=grids(found))


def scatters(evidence: Evidence) -> dict[str, Chart]:
    """Per score: its value against the overall loss, a point per checkpoint."""
    return {
        f"preference/{score}": Chart(
            f"{score} against validation loss",
            ("loss", score.rpartition("/")[2], "step"),
            tuple((p.losses[OVERALL], p.scores[score].value, p.step) for p in evidence.points),
            kind="scatter",
        )
        for score in evidence.scores()
    }


def grids(found: Mapping[str, Any]) -> dict[str, Grid]:
    """The tables for W&B."""
    columns = ("score", "stratum", "coefficient", "agreement", "low", "high", "n", "effective")
    rows = tuple(tuple(row[name] for name in columns) for row in found["agreement"])
    said = tuple((each["score"], each["step"], each["sure"], each["said"]) for each in found["recommendations"])
    return {
        "preference/agreement": Grid(columns, rows),
        "preference/keep": Grid(("score", "keep step", "probability", "said"), said),
    }
