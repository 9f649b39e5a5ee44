"""tools/slurm/train.sbatch, with programs in the place of SLURM's: which ends of a run have it started again."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.train.runs import ROOT


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("srun", "restarts", "status", "again"),
    [
        ("exit 0", 0, 0, False),
        ("exit 1", 0, 1, False),
        ("exit 75", 0, 75, True),
        ("exit 137", 3, 137, True),
        ("exit 137", 100, 137, False),
        ('echo fatal > "$MMFLOW_VERDICT"; exit 137', 0, 1, False),  # the first task said so, and srun killed the others
        ('echo done > "$MMFLOW_VERDICT"; exit 134', 0, 0, False),  # a task that broke after the end
    ],
)
def test_what_is_started_again(srun: str, restarts: int, status: int, again: bool, tmp_path: Path) -> None:
    program(tmp_path, "srun", f'echo "$@" > {tmp_path}/given\n{srun}')
    program(tmp_path, "scontrol", f'case $1 in show) echo n0;; *) echo "$@" >> {tmp_path}/asked;; esac')
    program(tmp_path, "sleep", "")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[0-1]"}
    env |= {"SLURM_RESTART_COUNT": str(restarts)}
    script = ROOT / "tools" / "slurm" / "train.sbatch"
    done = subprocess.run(["bash", script, "--data.seed", "1"], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
    assert asked == ("requeue 7\n" if again else "")
    assert (
        (tmp_path / "given").read_text().endswith("fit --config configs/video_d16.yaml --resume auto --data.seed 1\n")
    )
    assert not list(tmp_path.glob(".mmflow-*"))
