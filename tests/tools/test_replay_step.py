"""tools/replay_step.py: a poisoned sample in a step of 64 is found, in the step as it was."""

import importlib.util
import json
from pathlib import Path

import pytest

from mmflow.__main__ import main as mmflow
from tests.train.runs import ROOT, command

spec = importlib.util.spec_from_file_location("replay_step", ROOT / "tools" / "replay_step.py")
assert spec is not None and spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

POISON = (
    "--trainer.callbacks+=tests.train.test_guard.Poison",
    "--trainer.callbacks.init_args.steps=[3]",
)


@pytest.mark.slow
def test_the_poisoned_one_of_64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    more = ("--data.batch_size", 64, "--trainer.max_steps", 4, "--checkpoints.every_n_steps", 2, *POISON)
    mmflow(command(run, *more, "--trainer.accumulate_grad_batches", 2))
    kept = json.loads((run / "faults" / "step-000000003-rank-00000.json").read_text())["steps"]
    spoiled = [sample for sample in kept[-1]["samples"] if sample["loss"] != sample["loss"]]
    seen, norm = tool.replay(run, 3, [])
    assert norm != norm and len(seen) == 64
    bad = [each.key for each in seen if not each.is_number()]
    assert len(bad) == 2 and set(bad) == {tuple(sample["key"]) for sample in spoiled}, "one per micro-step"
    assert all(each.is_number() for each in seen[2:])
    # The same samples, t and losses as in the run.
    before = {tuple(sample["key"]): sample for sample in kept[-1]["samples"]}
    for each in seen:
        assert each.t == pytest.approx(before[each.key]["t"], abs=1e-6)
        if each.is_number():
            assert each.loss == pytest.approx(before[each.key]["loss"], rel=1e-4)
    capsys.readouterr()
    assert tool.main([str(run), "2"]) == 0
    said = capsys.readouterr().out
    assert "from step-000000002.ckpt to step 2" in said and "64 samples, 0 of which give no numbers" in said
    assert tool.main([str(tmp_path), "2"]) == 1
