"""Every configuration parses, builds without memory, is short, and states its own size."""

import re
from pathlib import Path

import pytest

from mmflow.cli import build
from mmflow.study.plan import read_study
from mmflow.study.size import sizes, unmatched

ROOT = Path(__file__).parent.parent
STUDIES = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if "\naxes:" in path.read_text()]
NUM_CELLS = {
    "study": 122,
    "study_screen": 61,
    "study_confirm": 96,
    "study_depth": 9,
    "study_backbones": 27,
    "study_scale": 4,
    "study_adaptive": 8,
}
CONFIGS = sorted({*(ROOT / "configs").glob("*.yaml")} - {*STUDIES})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_what_it_is_and_builds(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    for word in ("what", "costs", "reaches"):
        assert re.search(rf"^#   {word} ", text, re.MULTILINE), word
    module, data = build(path)
    assert next(module.backbone.parameters()).is_meta
    (stated,) = re.findall(r"depth \d+ \(([\d.]+) M parameters\)", text)
    assert sum(p.numel() for p in module.backbone.parameters()) / 1e6 == pytest.approx(float(stated), rel=0.02)
    assert data.latent_channels == module.backbone.in_channels
    for shape in data.mix.shapes():
        module.backbone.check_shape(*data.encoders.latent_shape(*shape)[1:])


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_says_how_it_is_run_and_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for word in ("run", "rank"):
        assert re.search(rf"^#   {word} +python tools/study.py {word} .*{path.name}", path.read_text(), re.MULTILINE)
    study = read_study(path)
    assert study.base in ("configs/study_base.yaml", "configs/study_objectives.yaml")
    assert study.out == f"runs/{path.stem}"
    assert len(study.cells()) == NUM_CELLS[path.stem]


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in STUDIES if "\nmatched:" in path.read_text()], ids=lambda path: path.stem
)
def test_backbones_are_matched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = read_study(path)
    found = sizes(study)
    assert set(found) == set(study.axis("backbone")) and study.matched
    assert unmatched(found, study.matched) == []
