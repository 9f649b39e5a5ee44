"""Launching cells, with a stand-in for Python that writes down what it was asked and ends as told."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mmflow.study import worker
from mmflow.study.folder import BUSY
from mmflow.study.launch import run_locally, submit, write_array
from mmflow.study.plan import Study
from mmflow.study.worker import Outcome

TINY = str(Path(__file__).parent.parent / "tiny.yaml")
STAND_IN = """#!/bin/bash
run() {{
  touch "{folder}/running-$$"; ls "{folder}" | grep -c running >> "{folder}/at-once"
  sleep 0.3; rm "{folder}/running-$$"
  echo "$1 threads $OMP_NUM_THREADS" >> "{folder}/asked"
  mkdir -p "{folder}/out/cells/$1"; echo "the end of the log" >> "{folder}/out/cells/$1/log.txt"
  case "$1" in rf_1*) echo 1; exit 1;; rf_2*) echo {busy};; rf_4*) exit 7;; *) echo 0;; esac
}}
[ "$2" = mmflow.study.cell ] && run "$4" && exit
touch "{folder}/process-$$"
while read -r name; do run "$name"; done
"""
"""One cell whose name is given, or those whose names are read: 1 fails, 2 is busy, 4 ends its process silently."""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    stand_in = tmp_path / "python"
    stand_in.write_text(STAND_IN.format(folder=tmp_path, busy=BUSY))
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return Study(TINY, str(tmp_path / "out"), {"model.formulation": ["rf"]}, seeds=(0, 1, 2, 3))


def test_cells_run_so_many_at_a_time_and_every_end_is_told(study: Study, tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    run_locally(study, tmp_path / "study.yaml", study.cells(), 2, outcomes.append)
    assert {each.cell.labels["seed"]: each.status for each in outcomes} == {"0": 0, "1": 1, "2": BUSY, "3": 0}
    assert all("the end of the log" in each.tail for each in outcomes)
    assert max(map(int, (tmp_path / "at-once").read_text().split())) == 2
    threads = max(1, (os.cpu_count() or 1) // 2)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert sorted(asked) == sorted(f"{cell.name} threads {threads}" for cell in study.cells())


def test_a_process_runs_one_cell_after_another_until_one_fails(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or until it has run as many as it may."""
    run_locally(study, tmp_path / "study.yaml", study.cells(), 1, lambda outcome: None)
    assert len(list(tmp_path.glob("process-*"))) == 2  # 0 and 1, which fails; 2 and 3
    monkeypatch.setattr(worker, "MOST", 1)
    run_locally(study, tmp_path / "study.yaml", study.cells(), 1, lambda outcome: None)
    assert len(list(tmp_path.glob("process-*"))) == 2 + 4


def test_a_process_that_dies_fails_its_cell_alone(study: Study, tmp_path: Path) -> None:
    dies, outcomes = replace(study, seeds=(0, 4, 3)), list[Outcome]()
    run_locally(dies, tmp_path / "study.yaml", dies.cells(), 1, outcomes.append)
    assert [each.status for each in outcomes] == [0, 7, 0]
    assert len(list(tmp_path.glob("process-*"))) == 2


def test_whoever_stops_the_runner_stops_its_cells(study: Study, tmp_path: Path) -> None:
    def stop(outcome: Outcome) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_locally(study, tmp_path / "study.yaml", study.cells(), 2, stop)
    assert len((tmp_path / "asked").read_text().splitlines()) <= 3


def test_a_runner_that_is_terminated_stops_its_cells(study: Study, tmp_path: Path) -> None:
    """And waits until they have saved where they are."""
    Path(sys.executable).write_text(
        f"#!/bin/bash\ntrap 'echo saved >> {tmp_path}/saved; exit 143' TERM\n"
        f"touch {tmp_path}/begun-$$\nfor i in $(seq 600); do sleep 0.1; done\n"
    )

    def terminate() -> None:
        while len(list(tmp_path.glob("begun-*"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(SystemExit, match="143"):
        run_locally(study, tmp_path / "study.yaml", study.cells(), 2, lambda outcome: None)
    assert (tmp_path / "saved").read_text().split() == ["saved", "saved"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_array_has_one_task_per_cell(study: Study, tmp_path: Path) -> None:
    script = write_array(study, tmp_path / "study.yaml", study.cells()[1:], 8, ["--gres=gpu:1"])
    text = script.read_text()
    assert "#SBATCH --array=1-3%8\n" in text and "#SBATCH --gres=gpu:1\n" in text and "--requeue" in text
    for task, cell in enumerate(study.cells()[1:], start=1):
        subprocess.run(["bash", str(script)], env={**os.environ, "SLURM_ARRAY_TASK_ID": str(task)}, capture_output=True)
        assert (tmp_path / "asked").read_text().splitlines()[-1].startswith(cell.name)


def test_submitting_says_what_slurm_says(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = write_array(study, tmp_path / "study.yaml", study.cells(), 1, [])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # and not the SLURM that this machine may have
    with pytest.raises(ValueError, match=r"no sbatch here(.|\n)*without --launcher slurm"):
        submit(script)
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text('#!/bin/bash\necho "Submitted batch job 7"\n')
    sbatch.chmod(0o755)
    assert submit(script) == "Submitted batch job 7"
    sbatch.write_text("#!/bin/bash\necho no such partition >&2; exit 1\n")
    with pytest.raises(ValueError, match="no such partition"):
        submit(script)
