"""Which process the others wait for."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from mmflow.batch import Batch
from mmflow.data.module import FlowData
from mmflow.train.watchdog import EXIT_STATUS, Watchdog, behind
from tests.processes import start
from tests.train.runs import fit


def write(folder: Path, rank: int, step: int, phase: str, age: float = 0.0) -> None:
    about: dict[str, Any] = {"rank": rank, "step": step, "phase": phase, "node": f"n{rank}", "keys": [f"shard/{rank}"]}
    (folder / f"rank-{rank:05d}.json").write_text(json.dumps({**about, "time": time.time() - age}))


def test_who_waits_for_whom(tmp_path: Path) -> None:
    for rank in (0, 1, 3):
        write(tmp_path, rank, 7, "backward and its collectives")
    write(tmp_path, 2, 7, "forward")
    said = behind(tmp_path, 4, time.time() - 60)
    assert "rank 2 on n2 is behind: step 7, forward; shard/2" in said and said.count("is behind") == 1
    write(tmp_path, 1, 6, "data")
    said = behind(tmp_path, 4, time.time() - 60)
    assert "rank 1 on n1 is behind: step 6, data" in said and said.count("is behind") == 1


def test_who_says_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, 3, "backward and its collectives")
    write(tmp_path, 1, 2, "data", age=61)  # of an earlier time
    said = behind(tmp_path, 3, time.time() - 60)
    assert "ranks [1, 2] did not say where they are" in said and "no step for 60 s" in said


def stand_still(rank: int, late: float, tmp_path: Path) -> None:
    """A process of two whose last sign of life comes `late`, ended by its watchdog."""
    write(tmp_path, 1 - rank, 2, "forward", age=100)  # left from an earlier time
    time.sleep(late)
    watchdog = Watchdog(1.0)
    watchdog._place = (tmp_path, rank, 2)
    watchdog.beat("forward")
    watchdog._watch()


@pytest.mark.parametrize("late", [(0.0, 0.5), (0.5, 0.0)])
def test_processes_wait_for_each_other_until_the_first_has_spoken(late: tuple[float, float], tmp_path: Path) -> None:
    """Whichever stands still first: the end of one would end the others before they say where they are."""
    pids = [
        start(lambda rank=rank: stand_still(rank, late[rank], tmp_path), tmp_path / f"{rank}.txt", {})
        for rank in range(2)
    ]
    ended = [os.waitpid(pid, 0) for pid in reversed(pids)]
    assert [os.waitstatus_to_exitcode(status) for _, status in ended] == [EXIT_STATUS] * 2
    said = (tmp_path / "0.txt").read_text()
    assert "rank 0 on" in said and "rank 1 on" in said and "did not say" not in said


@pytest.mark.slow
def test_an_encoder_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = FlowData.encoded

    def encoded(data: FlowData, batch: Batch) -> Batch:
        assert data.trainer is not None
        time.sleep(60 * (data.trainer.global_step == 2))
        return real(data, batch)

    monkeypatch.setattr(FlowData, "encoded", encoded)
    said = fit(tmp_path / "run", "--trainer.max_steps", 3, "--watchdog.step_timeout", 6, fails=True)
    assert "mmflow: no step for" in said and "is behind: step 2, encode" in said


def test_a_timeout_below_zero_is_none() -> None:
    with pytest.raises(ValueError, match=r"step_timeout must not be negative, got -1"):
        Watchdog(-1)
