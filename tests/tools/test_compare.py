"""tools/compare.py on surfaces and scores that runs have left."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from mmflow.metrics.loss_surface import LossSurface
from mmflow.metrics.surface_file import surface_path, write_surface
from tests.metrics.test_paired import surfaces

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    specification = importlib.util.spec_from_file_location("compare_tool", ROOT / "tools" / "compare.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


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
