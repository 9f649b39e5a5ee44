"""The quickstart itself, cut short: it must learn, and what it leaves must say so."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import ENV, ROOT, mmflow

STEPS = 160


@pytest.mark.slow
def test_the_quickstart_learns(tmp_path: Path) -> None:
    """A number of steps instead of minutes, so that a slow machine shows the same; the schedule is that of the
    shorter run, so that it ends as the whole one does.
    """
    mmflow(
        *("fit", "--config", ROOT / "configs" / "quickstart.yaml", "--trainer.default_root_dir", tmp_path / "run"),
        *("--trainer.max_time", "null", "--trainer.max_steps", STEPS, "--trainer.val_check_interval", STEPS // 4),
        *("--data.batch_size", 32),  # half of its own
        *("--data.val_samples", 64, "--scores.quick.prompts", 12, "--scores.quick.held_out_prompts", 0),
        env={key: value for key, value in ENV.items() if key != "OMP_NUM_THREADS"},
        timeout=3600,
    )
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row.get("val/loss")]
    # From about 0.25 after a quarter of the steps to 0.1.
    assert losses[-1] < 0.6 * losses[0], losses
    scores = json.loads((tmp_path / "run" / "results.json").read_text())["scores"]
    assert scores["geneval/overall"]["n"] == 72 and scores["motion/accuracy"]["n"] == 12
    assert 0 < scores["geneval/colors"]["chance"] < 0.2
    _its_growth_is_drawn(tmp_path / "run")


def _its_growth_is_drawn(run: Path) -> None:
    results = (run / "results.json").read_bytes()
    tool = [sys.executable, str(ROOT / "tools" / "learning.py"), str(run), "--prompts", "2", "--images", "1"]
    subprocess.run(tool, check=True, env=ENV, timeout=1800)
    with (run / "learning" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steps = {int(path.stem.split("-")[1]) for path in (run / "checkpoints").glob("step-*.ckpt")}
    assert {int(row["step"]) for row in rows} == steps and {"geneval/colors", "motion/accuracy"} < {
        row["score"] for row in rows
    }
    assert (run / "learning" / "scores.png").stat().st_size > 10_000
    assert (run / "results.json").read_bytes() == results, "judging again leaves the run's own results alone"
