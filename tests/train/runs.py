"""Tiny runs of the real command, in processes forked from the tests' own."""

import csv
from pathlib import Path

import torch

import mmflow.cli  # noqa: F401 - what is imported here need not be by every process
from mmflow.__main__ import main
from tests.processes import ranks

ROOT = Path(__file__).parent.parent.parent
TINY = str(ROOT / "tests" / "tiny.yaml")


def command(folder: Path, *args: object) -> list[str]:
    """Arguments of `python -m mmflow` for a tiny run."""
    return ["fit", "--config", TINY, "--trainer.default_root_dir", str(folder), *map(str, args)]


def fit(folder: Path, *args: object, num: int = 1, fails: bool = False, **env: str) -> str:
    """Runs `fit` on so many ranks; what the first one said."""
    given = command(folder, *args, *(("--trainer.devices", num) if num > 1 else ()))
    done = ranks(num, lambda: main(given), folder.parent / f"{folder.name}-output", **env)
    said = "\n".join(text for _, text in done)
    assert any(code for code, _ in done) == fails, said
    return done[0][1]


def losses(folder: Path) -> list[float]:
    """Training loss of every step that was logged, in the order of the file."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


def whole(folder: Path) -> dict[str, torch.Tensor]:
    """The raw weights of a run's newest checkpoint, of whatever form."""
    from mmflow.train.weights import load_weights

    return dict(load_weights(f"{folder}@raw").items())
