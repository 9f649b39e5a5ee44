"""metrics.csv: one file per run, whatever is logged and however often the run is continued."""

import csv
from pathlib import Path

import pytest

from mmflow.train.loggers import RunCsv, wandb_id


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_appended_also_by_the_next_process(tmp_path: Path) -> None:
    RunCsv(tmp_path / "run").log_metrics({"train/loss": 0.5}, step=0)
    RunCsv(tmp_path / "run").log_metrics({"train/loss": 1 / 3}, step=1)
    assert rows(tmp_path / "run") == [{"step": "0", "train/loss": "0.5"}, {"step": "1", "train/loss": "0.3333333"}]


def test_new_metrics_are_new_columns_and_old_rows_keep_their_values(tmp_path: Path) -> None:
    first = RunCsv(tmp_path)
    first.log_metrics({"a": 1.0}, step=0)
    first.log_metrics({"b": 2.0, "epoch": 0}, step=1)
    again = RunCsv(tmp_path)
    again.log_metrics({"a": 3.0, "c,d": 4.0}, step=2)
    again.log_metrics({"b": 5.0}, step=3)
    assert rows(tmp_path) == [
        {"step": "0", "a": "1", "b": "", "c,d": ""},
        {"step": "1", "a": "", "b": "2", "c,d": ""},
        {"step": "2", "a": "3", "b": "", "c,d": "4"},
        {"step": "3", "a": "", "b": "5", "c,d": ""},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_nothing_but_an_epoch_is_no_row(tmp_path: Path) -> None:
    RunCsv(tmp_path).log_metrics({"epoch": 0.0}, step=4)
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize("fresh", [True, False])
def test_a_continued_run_is_cut_back_to_its_step(tmp_path: Path, fresh: bool) -> None:
    logger = RunCsv(tmp_path)
    for step in range(6):
        logger.log_metrics({"train/loss": step}, step=step)
    logger.log_metrics({"late": 1.0}, step=6)
    if fresh:
        logger = RunCsv(tmp_path)
    logger.cut_back(3)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2"]
    for step in range(3, 5):
        logger.log_metrics({"train/loss": 10 * step}, step=step)
    assert [row["train/loss"] for row in rows(tmp_path)] == ["0", "1", "2", "30", "40"]


def test_cutting_back_to_the_start_leaves_an_empty_table(tmp_path: Path) -> None:
    logger = RunCsv(tmp_path)
    logger.cut_back(0)
    assert not (tmp_path / "metrics.csv").exists()
    logger.log_metrics({"train/loss": 1.0}, step=0)
    RunCsv(tmp_path).cut_back(0)
    assert rows(tmp_path) == []
    RunCsv(tmp_path).log_metrics({"train/loss": 2.0}, step=0)
    assert rows(tmp_path) == [{"step": "0", "train/loss": "2"}]


def test_a_run_keeps_its_id_at_w_and_b(tmp_path: Path) -> None:
    one, two = wandb_id(tmp_path / "one"), wandb_id(tmp_path / "two")
    assert wandb_id(tmp_path / "one") == one != two and len(one) == 8


def test_scores_of_the_checkpoint_itself_stay(tmp_path: Path) -> None:
    logger = RunCsv(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, step=2)
    logger.log_metrics({"geneval/overall": 0.5}, step=3)
    logger.log_metrics({"train/loss": 0.9}, step=3)
    logger.cut_back(3)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [(row["step"], row["geneval/overall"]) for row in csv.DictReader(file)] == [("2", ""), ("3", "0.5")]


def test_a_directory_without_an_id_takes_that_of_the_checkpoint_it_continues(tmp_path: Path) -> None:
    assert wandb_id(tmp_path / "new", saved="12ab34cd") == "12ab34cd" == wandb_id(tmp_path / "new", saved="other")
