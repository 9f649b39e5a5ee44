"""W&B has every point once, also of a run whose last points a kill took away before they were written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmflow.train import wandb_marks
from mmflow.train.loggers import RunCsv, RunWandb

Points = dict[tuple[str, int], float]


class Host:
    """W&B, that keeps what it is given, and writes no more than the first so many rows of each start to its file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.starts, self.writes = folder, list[list[dict[str, Any]]](), 10**6

    def start(self, logger: RunWandb) -> "Host":
        self.starts.append([])
        path = self.folder / f"run-{len(self.starts)}.wandb"
        path.touch()
        logger._marks.begin(path)
        return self

    def log(self, row: dict[str, Any]) -> None:
        if len(self.starts[-1]) < self.writes:
            self.starts[-1].append(row)

    def last_steps(self, path: Path) -> dict[str, int]:
        found: dict[str, int] = {}
        for row in self.starts[int(path.stem.removeprefix("run-")) - 1]:
            found |= dict.fromkeys((name for name in row if name != "trainer/global_step"), row["trainer/global_step"])
        return found

    def points(self) -> Points:
        found: Points = {}
        for row in (row for start in self.starts for row in start):
            step = row["trainer/global_step"]
            for name, value in row.items():
                if name != "trainer/global_step":
                    assert (name, step) not in found, "twice"
                    found[name, step] = value
        return found


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    host = Host(tmp_path)
    monkeypatch.setattr(RunWandb, "_start", lambda self: host.start(self))
    monkeypatch.setattr(wandb_marks, "last_steps", host.last_steps)
    yield host


def train(folder: Path, first: int, end: int) -> None:
    """Steps of a start of a run: a loss each, a validation at every third, and a picture, which no table holds."""
    loggers = RunCsv(folder), RunWandb(folder, "offline", "p")
    loggers[0].cut_back(first)
    for step in range(first, end):
        for logger in loggers:
            logger.log_metrics({"train/loss": 1 / (1 + step)}, step=step)
            if step % 3 == 2:
                logger.log_metrics({"val/loss": 2.0 + step}, step=step)
        loggers[0].log_metrics({"only/here": 1.0}, step=step)


@pytest.mark.parametrize("writes", [0, 1, 4, 100])
def test_what_a_kill_took_is_logged_by_the_next_start(writes: int, host: Host, tmp_path: Path) -> None:
    """Killed after 8 steps, of which W&B's file holds few; continued from a checkpoint at 6, killed, and so on."""
    host.writes = writes
    train(tmp_path, 0, 8)
    host.writes = 3
    train(tmp_path, 6, 9)
    host.writes = 100
    train(tmp_path, 8, 12)
    expected = {("train/loss", step): 1 / (1 + step) for step in range(12)}
    expected |= {("val/loss", step): 2.0 + step for step in (2, 5, 8, 11)}
    assert host.points() == {point: pytest.approx(value, rel=1e-6) for point, value in expected.items()}


def test_a_file_that_was_sent_and_cleared_away_has_lost_nothing(host: Host, tmp_path: Path) -> None:
    train(tmp_path, 0, 3)
    (tmp_path / "run-1.wandb").unlink()
    train(tmp_path, 2, 5)
    assert [row["trainer/global_step"] for row in host.starts[1] if "train/loss" in row] == [3, 4]


def test_marks_of_an_older_run(tmp_path: Path) -> None:
    (tmp_path / "wandb_steps.json").write_text('{"train/loss": 4}\n')
    marks = wandb_marks.Marks(tmp_path)
    assert marks.of("train/loss") == 4 and marks.of("val/loss") == -1 and not marks.lost()
