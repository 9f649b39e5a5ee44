"""Pictures carried to video: the runs are what they should be, and the tool does all of it, once."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from mmflow.study.carried import Steps, plan, tokens_per_step
from tests.test_cli import ROOT, TINY
from tests.tools.load import load

CONFIG = ROOT / "configs" / "carried.yaml"


def test_the_run_from_scratch_gets_the_compute_of_both_others(tmp_path: Path) -> None:
    # 64 pictures of 8 x 8 patches; 32 pictures and 32 clips of 2 x 8 x 8.
    single, mixed = tokens_per_step(CONFIG, 0.0), tokens_per_step(CONFIG)
    assert (single, mixed) == (64 * 64, 32 * 64 + 32 * 128)
    runs = {name: dict(pairwise(given)) for name, given in plan(CONFIG, tmp_path, Steps(800, 600, 0)).items()}
    assert list(runs) == ["pictures", "carried", "scratch"]
    steps = {name: int(given["--trainer.max_steps"]) for name, given in runs.items()}
    assert steps == {"pictures": 800, "carried": 600, "scratch": 1133}
    assert steps["scratch"] * mixed == pytest.approx(800 * single + 600 * mixed, rel=1e-3)
    assert runs["carried"]["--model.init_from"] == str(tmp_path / "pictures")
    with pytest.raises(ValueError, match="at least 1"):
        Steps(0)


@pytest.mark.slow
def test_all_of_it_and_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    tool = load("video")
    out = tmp_path / "out"
    few = ("--picture-steps", "3", "--clip-steps", "25", "--first-frame-steps", "2", "--prompts", "3")

    def call(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["video.py", *arguments])
        assert tool.main() == 0
        return capfd.readouterr().out

    said = call("run", str(out), "--config", TINY, *few)
    assert "grown: 3D patchifier" in said and "input for known parts: columns of zeros" in said
    assert "carried, step 25" in said and "scratch, step 28" in said and "0.00 of 255 levels" in said
    rows = json.loads((out / "carried" / "carried.json").read_text())
    assert {"step", "n", "colors", "motion"} <= rows[-1].keys() and rows[-1]["motion"]["n"] == 3
    assert "motion" not in json.loads((out / "pictures" / "carried.json").read_text())[-1]
    found = json.loads((out / "first_frame.json").read_text())
    assert found["distance"]["held"] == 0 < found["distance"]["free"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.ckpt")}
    assert "python -m mmflow" not in call("run", str(out), "--config", TINY, *few)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.ckpt")}
    assert "first frame given" in call("first-frame", str(out / "first_frame"), "--prompts", "2")
    call("plot", str(out), "--config", TINY)
    assert Image.open(out / "carried.png").width > 1000
