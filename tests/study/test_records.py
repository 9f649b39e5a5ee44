"""The file that carries finished cells from machine to machine."""

import json
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from mmflow.study.cell import run_cell
from mmflow.study.folder import score_file
from mmflow.study.plan import Cell, Setting, Study
from mmflow.study.records import read_records, record, unfinished
from mmflow.study.table import collect, curves
from mmflow.train.run import write_json
from tests.processes import start, wait

TINY = str(Path(__file__).parent.parent / "tiny.yaml")
JUDGED = {"judged.prompts": 20, "judged.images": 2, "judged.seed": 0, "judged.clip": None}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(
        base=TINY,
        out=str(tmp_path / "out"),
        axes={"model.formulation": ["rf", "eps/linear", "rf/cosmap"]},
        seeds=(0, 1),
        settings=(Setting(2, 1.0), Setting(3, 2.0)),
        records=str(tmp_path / "docs" / "study.jsonl"),
    )


def finish(study: Study, cell: Cell, number: float = 1.0, **controls: object) -> None:
    """What a cell leaves, weights aside."""
    folder = study.folder(cell)
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    write_json(folder / "controls.json", {"trainer.max_steps": 4, "data.batch_size": 8, **JUDGED, **controls})
    write_json(folder / "picked.json", {"step": 4, "val_loss": 0.5, "losses": {"2": 0.7, "4": 0.5}})
    write_json(folder / "seconds.json", 12.5)
    for weights in study.weights:
        for setting in study.settings:
            numbers = {"score": number, "score_error": 0.1, "kernel": 2 * number, "n": 6}
            write_json(score_file(folder, weights, setting), numbers)
    if study.curve:
        (folder / "run").mkdir()
        (folder / "run" / "metrics.csv").write_text("step,val/loss_picture\n1,0.7\n3,0.5\n")
        (folder / "curve").mkdir()
        write_json(folder / "size.json", {"parameters": 10, "step_flops": 100})
        for step in (2, 4):
            write_json(folder / "curve" / f"step-{step:09d}.json", {"score": number, "kernel": step})


@pytest.mark.parametrize("curve", [False, True])
def test_all_that_tables_are_made_of_survives_the_folder(study: Study, curve: bool) -> None:
    study = replace(study, curve=curve)
    for place, cell in enumerate(study.cells()):
        finish(study, cell, 0.1 + place / 7)
    from_folders = collect(study), curves(study)
    assert [cell.name for cell in record(study)] == [cell.name for cell in study.cells()]
    rmtree(study.out)
    assert (collect(study), curves(study)) == from_folders and not unfinished(study)
    assert len(from_folders[0][0]) == 6 * 4 and len(from_folders[1]) == (12 if curve else 0)
    if curve:
        assert read_records(study)[study.cells()[0].name].results.media == {2: {"pictures": 0.7}, 4: {"pictures": 0.5}}
    assert record(study) == []


def test_controls_are_written_once_and_lines_are_only_added(study: Study) -> None:
    written = ""
    for cell in study.cells():
        finish(study, cell)
        record(study, [cell])
        text = Path(str(study.records)).read_text()
        assert text.startswith(written) and text.endswith("\n") and text != written
        written = text
    lines = [json.loads(line) for line in written.splitlines()]
    assert ["controls" in line for line in lines] == [True] + [False] * 6
    assert [line["labels"] for line in lines[1:]] == [cell.labels for cell in study.cells()]


def test_a_cell_that_is_not_whole_is_not_recorded_and_a_new_setting_replaces_its_line(study: Study) -> None:
    first, second = study.cells()[:2]
    finish(study, first)
    finish(study, second)
    score_file(study.folder(second), "raw", study.settings[0]).unlink()
    assert [cell.name for cell in record(study)] == [first.name]
    more = replace(study, settings=(*study.settings, Setting(4, 2.0)))
    assert first.name in [cell.name for cell in unfinished(more)] and record(more) == []
    finish(more, first, 0.25)
    assert record(more, [first]) == [first]
    lines = Path(str(study.records)).read_text().splitlines()
    assert len(lines) == 2 and {row["score"] for row in collect(more)[0] if row["seed"] == "0"} == {0.25}


def test_a_recorded_cell_is_not_run_again(study: Study, capsys: pytest.CaptureFixture) -> None:
    cell = study.cells()[0]
    finish(study, cell)
    record(study)
    rmtree(study.out)
    run_cell(study, cell)
    assert f"{cell.name} is in {study.records}" in capsys.readouterr().out
    assert not (study.folder(cell) / "run").exists()


def test_unequal_controls_are_refused_with_the_difference(study: Study) -> None:
    first, second = study.cells()[:2]
    finish(study, first)
    record(study)
    before = Path(str(study.records)).read_bytes()
    finish(study, second, **{"trainer.max_steps": 8})
    with pytest.raises(ValueError) as error:
        record(study)
    for words in (first.name, str(study.records), second.name, "trainer.max_steps: 4 -> 8"):
        assert words in str(error.value)
    assert Path(str(study.records)).read_bytes() == before
    with pytest.raises(ValueError, match=r"trainer\.max_steps: 4 -> 8"):
        collect(study)


def cut(line: str) -> str:
    return line[: len(line) // 2]


def changed(key: str, value: Any) -> Any:
    return lambda line: json.dumps(json.loads(line) | {key: value})


def without_scores(line: str) -> str:
    content = json.loads(line)
    del content["results"]["scores"]
    return json.dumps(content)


DAMAGED = {
    "cut": (2, cut, "line 2: damaged"),
    "a merge's mark": (3, lambda line: "<<<<<<< HEAD", "line 3: damaged"),
    "no object": (2, lambda line: "[1, 2]", "line 2: damaged"),
    "a number": (2, lambda line: "3", "line 2: damaged"),
    "no scores": (2, without_scores, "line 2: damaged .*scores"),
    "scores that are none": (2, changed("results", {"scores": 3}), "line 2: damaged"),
    "other controls than the fingerprint's": (1, changed("controls", {"trainer.max_steps": 5}), "line 1: damaged"),
    "controls that no line has": (3, changed("fingerprint", "0123"), "line 3: no line of this file has the controls"),
    "controls are gone": (1, lambda line: "", "line 2: no line of this file has the controls"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_line_is_named_with_its_number(name: str, study: Study) -> None:
    number, damage, words = DAMAGED[name]
    for cell in study.cells()[:2]:
        finish(study, cell)
    record(study)
    path = Path(str(study.records))
    lines = path.read_text().splitlines()
    lines[number - 1] = damage(lines[number - 1])
    path.write_text("\n".join(lines))
    before = path.read_bytes()
    for reads in (collect, unfinished, record):
        with pytest.raises(ValueError, match=rf"study\.jsonl, {words}"):
            reads(study)
    assert path.read_bytes() == before


def test_lines_of_two_machines_are_merged_and_a_cell_that_both_ran_is_refused(study: Study, tmp_path: Path) -> None:
    first, second, third = study.cells()[:3]
    parts = []
    for place, cells in enumerate(([first, second], [first, third])):
        there = replace(study, out=str(tmp_path / f"out{place}"), records=str(tmp_path / f"{place}.jsonl"))
        for cell in cells:
            finish(there, cell)
        record(there)
        parts.append(Path(str(there.records)).read_text())
    path = Path(str(study.records))
    path.parent.mkdir()
    path.write_text("".join(parts))  # the first is the same in both
    assert set(read_records(study)) == {first.name, second.name, third.name} and len(unfinished(study)) == 3
    path.write_text("".join(parts).replace("12.5", "13.5", 1))
    with pytest.raises(ValueError, match=r"line 5: says other things of rf_0-.* than line 2: it was run twice"):
        read_records(study)


def test_processes_that_end_cells_at_the_same_time_lose_none(study: Study, tmp_path: Path) -> None:
    study = replace(study, axes={"model.formulation": ["rf"]}, seeds=tuple(range(24)))
    go = tmp_path / "go"

    def add(start: int) -> None:
        while not go.exists():
            pass
        for cell in study.cells()[start::4]:
            finish(study, cell)
            assert record(study, [cell]) == [cell]

    pids = [start(lambda n=n: add(n), tmp_path / f"{n}.txt", {}) for n in range(4)]  # type: ignore[misc]
    go.touch()
    assert wait(pids, 120) == [0] * 4, [(tmp_path / f"{n}.txt").read_text() for n in range(4)]
    assert not unfinished(study) and len(Path(str(study.records)).read_text().splitlines()) == 25
    assert not list(Path(str(study.records)).parent.glob(".*"))
