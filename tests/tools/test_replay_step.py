"""tools/replay_step.py: a poisoned sample in a step of 64 is found, in the step as it was, and kept out of the run."""

import json
from pathlib import Path

import pytest

from mmflow.__main__ import main as mmflow
from mmflow.train.storage import load_plain
from tests.tools.load import load
from tests.train.runs import command, losses

tool = load("replay_step")

POISON = "--trainer.callbacks+=tests.train.test_guard.Poison"
MORE = ("--data.batch_size", 64, "--trainer.max_steps", 4, "--checkpoints.every_n_steps", 2, POISON)


def faults(run: Path, step: int) -> list[dict]:
    """Samples of a step that was skipped."""
    kept = json.loads((run / "faults" / f"step-{step:09d}-rank-00000.json").read_text())["steps"]
    return kept[-1]["samples"]


@pytest.mark.slow
def test_the_poisoned_one_of_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, keys = tmp_path / "run", tmp_path / "keys.txt"
    poisoned = ("--trainer.callbacks.init_args.steps=[3]", "--trainer.accumulate_grad_batches", 2)
    mmflow(command(run, *MORE, *poisoned))
    spoiled = {"/".join(s["key"]) for s in faults(run, 3) if s["loss"] != s["loss"]}
    found = tool.replay(run, 3, each=True)
    assert found.norm != found.norm and len(found.losses) == len(found.alone) == 64
    names = {tool.name_of(each.samples[0].key) for each in found.culprits}
    assert names == spoiled and len(names) == 2, "one per micro-step"
    assert found.looks == 2 * (1 + 2 * 5)
    # The same samples, t and losses as in the run.
    before = {tuple(sample["key"]): sample for sample in faults(run, 3)}
    for each in found.alone:
        (one,) = each.samples
        assert one.t == pytest.approx(before[one.key]["t"], abs=1e-6)
        assert one.loss != one.loss or one.loss == pytest.approx(before[one.key]["loss"], rel=1e-4)
    capsys.readouterr()
    assert tool.main([str(run), "3", "--quarantine", str(keys)]) == 0
    said = capsys.readouterr().out
    assert "from step-000000002.ckpt to step 3" in said and "the run's own samples, their losses to within" in said
    assert "2 of them give no numbers, found by 22 gradients" in said and "2 added to" in said
    comment, *listed = keys.read_text().splitlines()
    assert comment.startswith("# step 3 of ") and set(listed) == spoiled
    assert tool.main([str(tmp_path), "2"]) == 1


@pytest.mark.slow
def test_what_is_quarantined_is_trained_on_no_more(tmp_path: Path) -> None:
    """A poisoned sample, wherever it comes: found in the first run, left out of the second, all else as it was."""
    MORE_ = (*MORE, "--trainer.max_steps", 2, "--checkpoints.every_n_steps", 1)
    clean, run, keys = tmp_path / "clean", tmp_path / "run", tmp_path / "keys.txt"
    mmflow(command(clean, *MORE_, "--trainer.callbacks.init_args.steps=[1]"))
    name = next("/".join(s["key"]) for s in faults(clean, 1) if s["loss"] != s["loss"])
    poison = f"--trainer.callbacks.init_args.names=[{name}]"
    mmflow(command(run, *MORE_, poison))
    assert tool.main([str(run), "1", "--quarantine", str(keys)]) == 0
    assert keys.read_text().splitlines()[1:] == [name]
    without = tmp_path / "without"
    mmflow(command(without, *MORE_, poison, "--data.exclude", keys))
    assert losses(run)[0] == losses(without)[0] and losses(run)[1] != losses(run)[1]
    assert losses(without)[1] == losses(without)[1] and not (without / "faults").exists()
    assert load_plain(without / "checkpoints" / "last.ckpt")["FlowData"]["position"] == 2 * 64


def test_the_file_of_what_is_left_out(tmp_path: Path) -> None:
    before, keys = tmp_path / "before.txt", tmp_path / "keys.txt"
    before.write_text("shard/1")
    assert tool.quarantine(keys, ["s/a/2", "s/a/3", "s/a/2"], "step 3", before) == 2
    assert keys.read_text() == "shard/1\n# step 3\ns/a/2\ns/a/3\n"
    assert tool.quarantine(keys, ["s/a/3"], "step 4", before) == 0
    assert tool.quarantine(keys, ["s/a/4"], "step 4", before) == 1
    assert keys.read_text().endswith("s/a/3\n# step 4\ns/a/4\n")


def test_what_a_repeated_step_is_compared_with() -> None:
    nan = float("nan")
    then = {("a", 0): 1.0, ("b", 0): nan}
    assert "to within 1.0e-02" in tool.compared({("a", 0): 1.01, ("b", 0): nan}, then)
    assert "others" in tool.compared({("a", 1): 1.0, ("b", 0): nan}, then)
    assert "other losses are no numbers" in tool.compared({("a", 0): 1.0, ("b", 0): 1.0}, then)
    assert "no losses" in tool.compared(then, {})
