"""Which process the others wait for."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mmflow.train.watchdog import Watchdog, behind


def write(folder: Path, rank: int, step: int, phase: str, age: float = 0.0) -> None:
    about: dict[str, Any] = {"rank": rank, "step": step, "phase": phase, "node": f"n{rank}", "keys": [f"shard/{rank}"]}
    (folder / f"rank-{rank:05d}.json").write_text(json.dumps({**about, "time": time.time() - age}))


def test_who_waits_for_whom(tmp_path: Path) -> None:
    for rank in (0, 1, 3):
        write(tmp_path, rank, 7, "backward and its collectives")
    write(tmp_path, 2, 7, "forward")
    said = behind(tmp_path, 4, 60)
    assert "rank 2 on n2 is behind: step 7, forward; shard/2" in said and said.count("is behind") == 1
    write(tmp_path, 1, 6, "data")
    said = behind(tmp_path, 4, 60)
    assert "rank 1 on n1 is behind: step 6, data" in said and said.count("is behind") == 1


def test_who_says_nothing(tmp_path: Path) -> None:
    write(tmp_path, 0, 3, "backward and its collectives")
    write(tmp_path, 1, 2, "data", age=10_000)  # of an earlier time
    said = behind(tmp_path, 3, 60)
    assert "ranks [1, 2] did not say where they are" in said and "no step for 60 s" in said


def test_a_timeout_below_zero_is_none() -> None:
    with pytest.raises(ValueError, match=r"step_timeout must not be negative, got -1"):
        Watchdog(-1)
