"""A study as a job array on a real SLURM: a task put back into the queue, one cancelled, and then what is left."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmflow.study.plan import Cell, Study, read_study
from mmflow.study.records import read_records, unfinished
from mmflow.study.table import read_table
from tests.slurm.host import Host, missing
from tests.study.test_study import write_study
from tests.train.runs import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing()), reason=f"no SLURM here ({', '.join(missing())}): apt-get install slurm-wlm munge"
    ),
]
LONG = 1500
STEPS, EVERY = 1500, 100  # long enough that tasks are disturbed in training
FIXED = {
    "trainer.max_steps": STEPS,
    "trainer.val_check_interval": EVERY,
    "checkpoints.every_n_steps": EVERY,
    "data.clip_share": 0.0,
}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path / "slurm")
    host.env |= {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    try:
        host.start()
        yield host
    finally:
        host.stop()


def tool(host: Host, *arguments: object) -> str:
    command = [sys.executable, str(ROOT / "tools" / "study.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=host.env, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def submit(host: Host, path: Path) -> str:
    """The id of the array of what is left to do."""
    said = tool(host, "run", "--config", path, "--launcher", "slurm", "--processes", 3)
    found = re.search(r"Submitted batch job (\d+)", said)
    assert found, said
    return found[1]


def has_begun(study: Study, cell: Cell) -> bool:
    """Whether it has a checkpoint to go on from."""
    return bool(list((study.folder(cell) / "run" / "checkpoints").glob("step-*.ckpt")))


def logs(study: Study) -> str:
    return "".join(f"{path}\n{path.read_text()[-2000:]}\n" for path in (Path(study.out) / "slurm").glob("*.log"))


def test_an_array_loses_no_cell_and_a_second_one_runs_what_was_cancelled(host: Host, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    axes = {"model.objective.density": ["Uniform", "LogitNormal", "CosMap"]}
    path = write_study(tmp_path, axes=axes, fixed=FIXED, records=str(records), curve=False)
    study = read_study(path)
    requeued, cancelled, left_alone = study.cells()
    job = submit(host, path)
    host._until(lambda: has_begun(study, requeued) and has_begun(study, cancelled), "checkpoints", LONG)
    host.run("scontrol", "requeue", f"{job}_1")
    host.run("scancel", f"{job}_2")
    assert host.wait(f"{job}_2", LONG) == "CANCELLED"
    states = [host.wait(f"{job}_{task}", LONG) for task in (1, 3)]
    assert states == ["COMPLETED"] * 2, logs(study)
    assert host.job(f"{job}_1")["Restarts"] == "1" and host.job(f"{job}_3")["Restarts"] == "0"
    assert set(read_records(study)) == {requeued.name, left_alone.name}
    said = tool(host, "collect", "--config", path)
    assert "8 rows" in said and "1 cells are not whole" in said and "LogitNormal, seed 0: 0 of 4 settings" in said

    assert unfinished(study) == [cancelled] and has_begun(study, cancelled)
    assert {record.results.controls["trainer.devices"] for record in read_records(study).values()} == {"auto"}
    second = submit(host, path)
    assert host.wait(f"{second}_1", LONG) == "COMPLETED", logs(study)
    said = tool(host, "collect", "--config", path)
    assert "12 rows" in said and "not whole" not in said and not unfinished(study)
    assert len(records.read_text().splitlines()) == 1 + 3
    assert len(read_table(study.out)) == 12 and "CosMap" in tool(host, "rank", study.out, "--config", path)
    for cell in study.cells():  # nobody picks from half a run
        picked = json.loads((study.folder(cell) / "picked.json").read_text())
        assert set(picked["losses"]) == {str(step) for step in range(EVERY, STEPS + 1, EVERY)}
