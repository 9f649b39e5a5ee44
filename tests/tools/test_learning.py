"""tools/learning.py: what it reads and writes; test_quickstart.py runs it on a run."""

import csv
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from rich.console import Console

from tests.tools.load import load


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load("learning")


def score(value: float) -> dict:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 20, "chance": 0.25}


def test_checkpoints_come_in_the_order_of_their_steps(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").touch()
    for name in ("step-000000200", "step-000000100", "last"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").touch()
    assert {step: path.name for step, path in tool.checkpoints(tmp_path).items()} == {
        100: "step-000000100.ckpt",
        200: "step-000000200.ckpt",
    }


def test_a_folder_that_is_no_run_is_refused(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.console = Console(width=200)
    assert tool.main([str(tmp_path)]) == 2
    assert "it has no config.yaml" in capsys.readouterr().out
    (tmp_path / "config.yaml").touch()
    assert tool.main([str(tmp_path)]) == 2
    assert "has no step-*.ckpt" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_judged_says_why(tool: ModuleType, tmp_path: Path) -> None:
    broken = tmp_path / "checkpoints" / "step-000000100.ckpt"
    broken.parent.mkdir()
    broken.touch()
    with pytest.raises(ValueError, match=r"step-000000100.ckpt could not be judged:[\s\S]*error:"):
        tool.judged(broken, tmp_path / "learning", prompts=1, images=1)


def test_the_table_and_the_figure_have_every_score(tool: ModuleType, tmp_path: Path) -> None:
    scores = {100: {name: score(0.3) for name in tool.SHOWN}, 200: {name: score(0.6) for name in tool.SHOWN}}
    tool.write(tmp_path / "scores.csv", scores)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["score"]) for row in rows] == [(str(s), name) for s in scores for name in tool.SHOWN]
    assert {row["value"] for row in rows} == {"0.3", "0.6"} and rows[0]["chance"] == "0.25"
    tool.draw(tmp_path / "scores.png", scores, {100: {"pictures": 0.5, "clips": 0.75}, 200: {"pictures": 0.25}})
    with Image.open(tmp_path / "scores.png") as image:
        colors = {color for _, color in image.convert("RGB").getcolors(image.width * image.height)}
    assert {tuple(bytes.fromhex(color[1:])) for color in tool.COLORS} < colors
