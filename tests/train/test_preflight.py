"""What is said before the first step."""

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from mmflow.__main__ import main
from mmflow.cli import MmflowCLI
from mmflow.train import preflight
from mmflow.train.preflight import PreflightError, code_hash
from tests.processes import ranks
from tests.train.runs import command


def test_no_room_for_two_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1_000_000))
    cli = MmflowCLI(command(tmp_path / "run", "--trainer.max_steps", 1))
    with pytest.raises(PreflightError, match=r"run has 0\.00 GB free, two checkpoints of this model take 0\.01 GB"):
        cli.run()
    assert not (tmp_path / "run" / "metrics.csv").exists() and not (tmp_path / "run" / "history.jsonl").exists()


def test_the_code_has_one_hash() -> None:
    assert code_hash() == code_hash() and len(code_hash()) == 16


@pytest.mark.slow
@pytest.mark.parametrize("what", ["configuration", "code of mmflow"])
def test_processes_that_differ(what: str, tmp_path: Path) -> None:
    def work() -> None:
        first = os.environ["RANK"] == "0"
        clip = "0.7" if what == "configuration" and not first else "0.5"
        if what != "configuration":
            preflight.code_hash = lambda: "this" if first else "that"
        main(command(tmp_path / "run", "--trainer.devices", 2, "--trainer.gradient_clip_val", clip))

    (first, second) = ranks(2, work, tmp_path / "output")
    assert first[0] == second[0] == 1
    assert f"the processes differ in their {what}: " in first[1] and "ranks [0]" in first[1]
    assert "differ" not in second[1] and "Traceback" not in first[1] + second[1]
    assert not (tmp_path / "run" / "history.jsonl").exists()
