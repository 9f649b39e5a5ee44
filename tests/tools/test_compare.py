"""tools/compare.py on surfaces and scores that runs have left."""

from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from mmflow.metrics.loss_surface import LossSurface
from mmflow.metrics.surface_file import surface_path, write_surface
from tests.metrics.test_evidence import QUALITY, plant
from tests.metrics.test_paired import surfaces
from tests.people.test_checkpoints import STEPS, voted
from tests.tools.load import load


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load("compare")


@pytest.fixture
def said(tool: ModuleType, capsys: pytest.CaptureFixture[str]):
    def say(*arguments: object, fails: bool = False) -> str:
        tool.console = Console(width=200)
        assert (tool.main([str(a) for a in arguments]) != 0) == fails
        return capsys.readouterr().out

    return say


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, surface in zip("ab", surfaces(0.008, on_clips=0.0), strict=True):
        write_surface(surface_path(folder / name, 100), surface)
    return folder / "a", folder / "b"


def test_a_verdict_with_its_interval_and_where_it_does_not_hold(said, runs: tuple[Path, Path]) -> None:
    text = said(*runs)
    assert "verdict: B better by 0." in text and "; not on clips" in text
    assert "clip t=0.5" in text and "unpaired" in text and "left out" not in text


def test_weights_and_steps_are_chosen_by_name(said, runs: tuple[Path, Path]) -> None:
    assert "no difference" in said(f"{runs[0]}@ema:100", runs[0] / "surface" / "step-000000100.parquet")
    assert "validated at steps 100: not at 7" in said(f"{runs[0]}:7", runs[1], fails=True)
    assert "no raw weights" in said(f"{runs[0]}@raw", runs[1], fails=True)


def test_what_does_not_compare_is_refused(said, runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = surfaces(0.0, n=20)[0]
    write_surface(surface_path(tmp_path / "c", 1), LossSurface.of(other.rows, 1, {"seed": 3, "target": "eps - x0"}))
    assert "different identity" in (text := said(runs[0], tmp_path / "c", fails=True)) and "seed: 0 -> 3" in text
    assert "holds no surface" in said(runs[0], tmp_path, fails=True)
    assert "takes two runs" in said(runs[0], fails=True)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of different depth whose picture loss says what their score is."""
    folder = tmp_path_factory.mktemp("scored")
    runs = []
    for depth in (2, 4):
        run = plant(folder / f"d{depth}", 0.1 * depth + 0.2 * QUALITY, seed=depth)
        (run / "config.yaml").write_text(f"model: {{backbone: {{init_args: {{depth: {depth}}}}}}}")
        runs.append(run)
    return runs


def test_correlation_across_runs(said, scored: list[Path], tmp_path: Path) -> None:
    text = said("--correlate", *scored, "--out", tmp_path / "scatter.png")
    assert "d2 24, d4 24; ema weights" in text and "kendall" in text
    assert "good: predicted best by picture" in text and "Keep d4 at step" in text
    assert (tmp_path / "scatter.png").stat().st_size > 10_000
    text = said("--correlate", scored[0])
    assert "one run: its checkpoints drift together" in text


def test_peoples_votes_are_one_of_the_scores(said, tmp_path: Path) -> None:
    run = plant(tmp_path / "run", QUALITY)
    session = voted(run, tmp_path / "session")
    text = said("--correlate", run, "--votes", session.folder)
    assert f"run {STEPS}; ema weights" in text and "people/prompt" in text and "good" in text
    assert "no session" in said("--correlate", run, "--votes", tmp_path, fails=True)


def test_a_report_is_a_page_with_figures(said, scored: list[Path], tmp_path: Path) -> None:
    said("--report", scored[0], "--out", tmp_path / "docs" / "signals.md")
    page = (tmp_path / "docs" / "signals.md").read_text()
    assert "# Signals of `d2`" in page and "a model of depth 2" in page and "Keep d2 at step" in page
    assert "| picture |" in page and "| good | " in page
    for name in ("losses", "surface", "scores", "scatter"):
        assert f"(signals/{name}.png)" in page
        assert (tmp_path / "docs" / "signals" / f"{name}.png").stat().st_size > 5_000
    assert "of one run, got 2" in said("--report", *scored, fails=True)
