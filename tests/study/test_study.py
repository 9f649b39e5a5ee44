"""A study end to end: cells trained, picked and scored; a table that grows; what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mmflow.study.cell import drop_unvalidated, run_cell
from mmflow.study.folder import CellBusyError, CellStoppedError, is_done, lock, score_file
from mmflow.study.plan import Study, read_study
from mmflow.study.records import unfinished
from mmflow.study.standing import rank_columns
from mmflow.study.table import collect, curves, read_table, write_table
from mmflow.train.preemption import Preemption, Reason

ROOT = Path(__file__).parent.parent.parent
TOOL = str(ROOT / "tools" / "study.py")
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
SETTINGS = [{"num_steps": 2, "guidance_scale": 2.0}, {"num_steps": 3, "guidance_scale": 2.0, "solver": "Heun"}]
OWN = """
from dataclasses import dataclass

import torch
from mmflow.flow.density import AbstractSampler


@dataclass(frozen=True)
class LateHalf(AbstractSampler):
    start: float = 0.5

    def quantile(self, u):
        return self.start + (1 - self.start) * u

    def pdf(self, t):
        return (t >= self.start) / (1 - self.start)
"""


def write_study(folder: Path, **changes: object) -> Path:
    content = {
        "base": str(ROOT / "tests" / "tiny.yaml"),
        "out": str(folder / "out"),
        "axes": {"model.objective.density": ["Uniform", "LogitNormal"]},
        "rows": "model.objective.density",
        "fixed": {
            "trainer.max_steps": 4,
            "trainer.val_check_interval": 2,
            "checkpoints.every_n_steps": 2,
            "data.clip_share": 0.0,
        },
        "settings": SETTINGS,
        "judge": {"prompts": 1, "images": 1},
        "curve": True,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}, sort_keys=False))
    return path


def own_density(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    (folder / "own_density.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(folder))
    return {"class_path": "own_density.LateHalf", "init_args": {"start": 0.25}}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two cells, whole."""
    folder = tmp_path_factory.mktemp("study")
    study = read_study(write_study(folder))
    for cell in study.cells():
        run_cell(study, cell)
    write_table(collect(study)[0], Path(study.out))
    write_table(curves(study), Path(study.out), "curves")
    return folder


def test_a_cell_leaves_weights_choice_and_scores_and_no_checkpoints(done: Path) -> None:
    study = read_study(done / "study.yaml")
    assert not unfinished(study)
    for cell in study.cells():
        folder = study.folder(cell)
        picked = json.loads((folder / "picked.json").read_text())
        assert picked["step"] == min(picked["losses"], key=picked["losses"].get) or picked["step"] in (2, 4)
        assert picked["val_loss"] == min(picked["losses"].values()) and set(picked["losses"]) == {"2", "4"}
        assert {"ema.safetensors", "raw.safetensors"} <= {path.name for path in folder.iterdir()}
        assert not list((folder / "run" / "checkpoints").iterdir())
        assert len(list((folder / "scores").iterdir())) == 4


def test_the_table_is_tidy_in_both_formats(done: Path) -> None:
    rows = read_table(done / "out")
    assert len(rows) == 2 * 2 * 2
    assert {row["model.objective.density"] for row in rows} == {"Uniform", "LogitNormal"}
    assert {(row["num_steps"], row["evaluations"]) for row in rows} == {(2, 2), (3, 5)}
    assert all(row["n"] == 6 and row["kernel"] is not None and 0 <= row["score"] <= 1 for row in rows)
    csv = read_table(done / "out" / "table.csv")
    assert [row["kernel"] for row in csv] == pytest.approx([row["kernel"] for row in rows], rel=1e-5)
    assert len({row["controls"] for row in rows}) == 1
    assert set(rank_columns(rows, "model.objective.density")) == {"all", "2 steps", "3 steps"}


def test_a_curve_has_every_checkpoint_with_its_flops(done: Path) -> None:
    study = read_study(done / "study.yaml")
    rows = read_table(done / "out", "curves")
    assert [row["step"] for row in rows] == [2, 4, 2, 4] and len({row["step_flops"] for row in rows}) == 1
    assert all(row["flops"] == row["step"] * row["step_flops"] > 0 for row in rows)
    for cell, own in zip(study.cells(), (rows[:2], rows[2:]), strict=True):
        picked = json.loads((study.folder(cell) / "picked.json").read_text())
        assert [row["val_loss"] for row in own] == pytest.approx([picked["losses"][str(n)] for n in (2, 4)], rel=1e-5)
        # The picked checkpoint is one of the curve's, and was judged alike.
        scored = json.loads(score_file(study.folder(cell), "ema", study.settings[0]).read_text())
        (same,) = [row for row in own if row["step"] == picked["step"]]
        assert same["kernel"] == pytest.approx(scored["kernel"], rel=1e-4, abs=1e-6)
        assert not list((study.folder(cell) / "curve").glob("*.safetensors"))


def test_what_is_done_is_not_done_again_and_what_is_lost_is(done: Path) -> None:
    study = read_study(done / "study.yaml")
    cell = study.cells()[0]
    lost = score_file(study.folder(cell), "raw", study.settings[0])
    kept = {path: path.stat().st_mtime_ns for path in study.folder(cell).rglob("*.json")}
    before = json.loads(lost.read_text())
    lost.unlink()
    assert not is_done(study, cell)
    run_cell(study, cell)
    after = json.loads(lost.read_text())
    del before["seconds"], after["seconds"]
    assert after == pytest.approx(before, rel=1e-4, abs=1e-6)
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items() if path != lost)


def test_a_cell_is_added_without_the_others_and_may_be_the_user_s_own_class(
    done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = own_density(done, monkeypatch)
    values = ["Uniform", "LogitNormal", own]
    study = read_study(write_study(done, axes={"model.objective.density": values}))
    (left,) = unfinished(study)
    assert left.labels["model.objective.density"] == "LateHalf(start=0.25)"
    _, missing = collect(study)
    assert missing == ["model.objective.density LateHalf(start=0.25), seed 0: 0 of 4 settings"]
    labels = [cell.labels for cell in study.cells()]
    with pytest.raises(ValueError, match=r"4 of 12 are missing(.|\n)*LateHalf\(start=0\.25\)"):
        rank_columns(read_table(done / "out"), study.rows, expected=labels)
    run_cell(study, left)
    rows, missing = collect(study)
    assert len(rows) == 12 and not missing
    config = yaml.safe_load((study.folder(left) / "run" / "config.yaml").read_text())
    assert config["model"]["objective"]["density"]["init_args"] == {"start": 0.25}


def test_unequal_controls_are_refused_with_the_difference(done: Path) -> None:
    study = read_study(write_study(done, fixed={**yaml.safe_load((done / "study.yaml").read_text())["fixed"]}))
    folder = study.folder(study.cells()[1])
    kept = (folder / "controls.json").read_text()
    (folder / "controls.json").write_text(json.dumps(json.loads(kept) | {"data.batch_size": 16}))
    try:
        with pytest.raises(ValueError, match=r"differ in what a study keeps equal:\n  data.batch_size: 8 -> 16"):
            collect(study)
    finally:
        (folder / "controls.json").write_text(kept)
    with pytest.raises(ValueError, match=r"as judged and this study differ(.|\n)*judged\.images: 1 -> 2"):
        collect(read_study(write_study(done, judge={"prompts": 1, "images": 2})))
    write_study(done)


def test_a_begun_cell_does_not_go_on_with_another_base(done: Path, tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))
    cell = study.cells()[0]
    folder = study.folder(cell)
    folder.mkdir(parents=True)
    begun = json.loads((read_study(done / "study.yaml").folder(cell) / "controls.json").read_text())
    (folder / "controls.json").write_text(json.dumps(begun | {"ema.decay": 0.5}))
    with pytest.raises(ValueError, match=r"as it was begun and as it is now(.|\n)*ema.decay: 0.5 -> 0.99"):
        run_cell(study, cell)


def test_checkpoints_that_were_never_validated_cannot_be_picked(tmp_path: Path) -> None:
    fixed = {"trainer.max_steps": 2, "trainer.val_check_interval": 2, "checkpoints.every_n_steps": 3}
    study = read_study(write_study(tmp_path, fixed={**fixed, "data.val_samples": 0}))
    with pytest.raises(ValueError, match=r"val_check_interval and checkpoints\.every_n_steps"):
        run_cell(study, study.cells()[0])


def test_a_checkpoint_that_was_saved_but_not_validated_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n0,1.0,\n1,1.0,\n1,,0.9\n2,1.0,\n3,1.0,\n")
    for name in ("step-000000002", "step-000000004", "last"):
        (tmp_path / "checkpoints" / f"{name}.ckpt").write_text(name)
    for _ in range(2):
        drop_unvalidated(tmp_path)
        assert {path.name: path.read_text() for path in (tmp_path / "checkpoints").iterdir()} == {
            "step-000000002.ckpt": "step-000000002",
            "last.ckpt": "step-000000002",
        }
    (tmp_path / "metrics.csv").unlink()
    drop_unvalidated(tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_cell_that_is_stopped_in_training_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SIGTERM does it, of whoever stops the runner or of SLURM: the run ends in order after its first checkpoint."""
    study = read_study(write_study(tmp_path, records=str(tmp_path / "study.jsonl")))
    cell = study.cells()[0]
    with monkeypatch.context() as stops:
        stops.setattr(
            Preemption, "_own", lambda self, trainer: Reason.TERMINATED if trainer.global_step == 2 else Reason.NONE
        )
        with pytest.raises(CellStoppedError, match=rf"{cell.name} was stopped after step 2"):
            run_cell(study, cell)
    assert not (study.folder(cell) / "picked.json").exists() and not (tmp_path / "study.jsonl").exists()
    run_cell(study, cell)
    picked = json.loads((study.folder(cell) / "picked.json").read_text())
    assert set(picked["losses"]) == {"2", "4"} and is_done(study, cell)


def test_two_processes_do_not_work_on_one_cell(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))
    cell = study.cells()[0]
    with lock(study.folder(cell)), pytest.raises(CellBusyError):
        run_cell(study, cell)


def tool(*arguments: object, fails: bool = False) -> str:
    done = subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, env=ENV)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_commands_rank_and_plot(done: Path) -> None:
    said = tool("rank", done / "out" / "table.csv")
    assert "LogitNormal" in said and "50 steps" not in said and "3 steps" in said and "=" in said
    assert "nowhere" in tool("rank", done / "nowhere", fails=True)
    tool("plot", done / "out", "--out", done / "figures")
    tool("plot", done / "out", "--out", done / "figures", "--kind", "curves")
    names = ("steps.png", "ranks.png", "curves.png")
    assert all((done / "figures" / name).stat().st_size > 10_000 for name in names)


def test_records_stand_in_for_the_folders(done: Path, tmp_path: Path) -> None:
    """On another machine, where there is nothing but the records: the same tables and ranks, and nothing to run."""
    records = str(tmp_path / "kept" / "study.jsonl")
    here = write_study(done, records=records)
    tool("collect", "--config", here)
    (tmp_path / "there").mkdir()
    there = write_study(tmp_path / "there", records=records)
    before = Path(records).read_bytes()
    assert "2 cells, 0 to run" in tool("run", "--config", there)
    for name in ("table", "curves"):
        assert read_table(tmp_path / "there" / "out", name) == read_table(done / "out", name)
    assert tool("rank", tmp_path / "there" / "out", "--config", there) == tool("rank", done / "out", "--config", here)
    tool("plot", tmp_path / "there" / "out", "--config", there)
    tool("plot", tmp_path / "there" / "out", "--config", there, "--kind", "curves")
    assert not (tmp_path / "there" / "out" / "cells").exists() and Path(records).read_bytes() == before


def test_a_cell_of_other_controls_than_the_records_is_not_trained(done: Path, tmp_path: Path) -> None:
    records = str(tmp_path / "study.jsonl")
    tool("collect", "--config", write_study(done, records=records))
    fixed = yaml.safe_load((done / "study.yaml").read_text())["fixed"] | {"data.batch_size": 4}
    values = ["Uniform", "LogitNormal", "CosMap"]
    path = write_study(tmp_path, fixed=fixed, records=records, axes={"model.objective.density": values})
    said = tool("run", "--config", path, fails=True)
    assert "differ in what a study keeps equal:" in said and "data.batch_size: 8 -> 4" in said
    (cell,) = unfinished(read_study(path))
    assert not (read_study(path).folder(cell) / "run" / "metrics.csv").exists()
    write_study(done)


def test_a_cell_that_ends_is_added_to_the_records(done: Path, tmp_path: Path) -> None:
    """One more value, on a machine that has but the records: only that one is trained."""
    records = tmp_path / "study.jsonl"
    tool("collect", "--config", write_study(done, records=str(records)))
    values = ["Uniform", "LogitNormal", "CosMap"]
    path = write_study(tmp_path, records=str(records), axes={"model.objective.density": values})
    before = records.read_text()
    said = tool("run", "--config", path)
    assert "3 cells, 1 to run" in said and "12 rows" in said
    assert records.read_text().startswith(before)
    (line,) = records.read_text()[len(before) :].splitlines()
    assert json.loads(line)["labels"] == {"model.objective.density": "CosMap", "seed": "0"}
    assert [path.name.split("_")[0] for path in (tmp_path / "out" / "cells").iterdir()] == ["CosMap"]
    write_study(done)


def test_the_second_cell_of_a_process_is_what_it_is_alone(tmp_path: Path) -> None:
    """To the bit; and each says what it has to say in its own folder."""
    studies = []
    for name in ("both", "alone"):
        (tmp_path / name).mkdir()
        studies.append(read_study(write_study(tmp_path / name, curve=False)))
    both, alone = studies
    said = tool("run", "--config", tmp_path / "both" / "study.yaml")
    assert "2/2" in said and "8 rows" in said
    cell = both.cells()[1]
    command = [sys.executable, "-m", "mmflow.study.cell", str(tmp_path / "alone" / "study.yaml"), cell.name]
    subprocess.run(command, env=ENV, check=True, capture_output=True)
    for kind in ("ema", "raw"):
        files = [study.folder(cell) / f"{kind}.safetensors" for study in studies]
        assert files[0].read_bytes() == files[1].read_bytes()
    for path in (alone.folder(cell) / "scores").iterdir():
        mine, other = (json.loads((study.folder(cell) / "scores" / path.name).read_text()) for study in studies)
        assert mine | {"seconds": 0} == other | {"seconds": 0}
    logs = [(both.folder(each) / "log.txt").read_text() for each in both.cells()]
    assert [log.count("run: ") for log in logs] == [1, 1] and all("ema-Euler-2" in log for log in logs)


def test_the_variance_of_trained_cells_is_measured(done: Path) -> None:
    path = done / "study.yaml"
    said = tool("variance", "--config", path, "--steps", 16, "--batch", 4, "--only", "LogitNormal")
    assert "4 rows" in said and "low-discrepancy" in said and "adaptive" in said and "Uniform" not in said
    text = (done / "out" / "variance.csv").read_text().splitlines()
    assert len(text) == 5 and text[0].startswith("model.objective.density,seed,weights,steps,batch,t,u,loss_new")
    assert "no cell has its weights here" in tool("variance", "--config", path, "--only", "CosMap", fails=True)


@pytest.mark.slow
def test_a_killed_study_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    """Killed without warning in the middle of training: the same losses and scores as one that was left alone."""
    fixed = {
        "trainer.max_steps": 120,
        "trainer.val_check_interval": 20,
        "checkpoints.every_n_steps": 20,
        "data.clip_share": 0.0,
    }
    results = []
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
        path = write_study(tmp_path / name, fixed=fixed)
        study: Study = read_study(path)
        command = [sys.executable, TOOL, "run", "--config", str(path), "--processes", "2"]
        if name == "killed":
            runner = subprocess.Popen(command, env=ENV, start_new_session=True, stdout=subprocess.DEVNULL)
            checkpoints = study.folder(study.cells()[0]) / "run" / "checkpoints"
            deadline = time.monotonic() + 300
            while not list(checkpoints.glob("step-*.ckpt")):
                assert runner.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            os.killpg(runner.pid, signal.SIGKILL)
            runner.wait()
            assert len(unfinished(study)) == 2
        said = tool(*command[2:])
        assert "8 rows" in said and not unfinished(study)
        assert "0 to run" in tool(*command[2:])
        rows, _ = collect(study)
        picked = [json.loads((study.folder(c) / "picked.json").read_text())["losses"] for c in study.cells()]
        numbers = [{k: v for k, v in row.items() if not isinstance(v, str) and "seconds" not in k} for row in rows]
        results.append([*picked, *numbers])
    for alone, killed in zip(*results, strict=True):
        assert killed == pytest.approx(alone, rel=1e-3, abs=1e-5)
