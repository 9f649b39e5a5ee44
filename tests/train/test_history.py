"""`history.jsonl`, and what a start makes of it that has nothing to train."""

from pathlib import Path

from mmflow.train.history import append, came_to_its_end, read_history
from tests.train.runs import fit


def test_a_line_that_is_cut_short_is_left_out_and_goes_on_in_a_new_one(tmp_path: Path) -> None:
    append(tmp_path, "start", 0)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"time": 1.0, "eve')
    append(tmp_path, "continue", 2, nodes=3)
    found = read_history(tmp_path)
    assert [(line["event"], line["step"]) for line in found] == [("start", 0), ("continue", 2)]
    assert found[1]["nodes"] == 3 and read_history(tmp_path / "none") == []


def test_an_end_counts_for_the_last_start_and_not_after_a_stop(tmp_path: Path) -> None:
    assert not came_to_its_end(tmp_path)
    for event in ("start", "stop", "end", "continue"):
        append(tmp_path, event, 1)
        assert not came_to_its_end(tmp_path)
    append(tmp_path, "end", 2)
    assert came_to_its_end(tmp_path)


def test_a_run_that_is_complete_says_so(tmp_path: Path) -> None:
    """And tells a scheduler's script, and what is missing if its end was cut off."""
    run, verdict = tmp_path / "run", tmp_path / "verdict"
    given = ("--resume", "auto", "--trainer.max_steps", 2, "--wandb.mode", "off")
    assert "nothing to train" not in fit(run, *given)
    said = fit(run, *given, MMFLOW_VERDICT=str(verdict))
    assert f"nothing to train: {run} is at step 2, and trainer.max_steps is 2 (a larger one trains on)\n" in said
    assert verdict.read_text() == "done"
    start, end = (run / "history.jsonl").read_text().splitlines()
    for lines in ([start], [start, end.replace('"end"', '"stop"'), end]):
        (run / "history.jsonl").write_text("\n".join(lines) + "\n")
        assert f"Its end was cut off: python -m mmflow test --ckpt_path {run} makes" in fit(run, *given)
