"""Steps that would spoil the weights: skipped, told, and the end of a run when there are too many."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from mmflow.cli import MmflowCLI
from mmflow.train.guard import Guard, NumbersError, gradient_norm
from mmflow.train.storage import load_plain
from tests.train.runs import command, fit, losses


class Poison(Callback):
    """Makes one number of one sample's latents NaN in the stated steps."""

    def __init__(self, steps: list[int], rank: int = 0) -> None:
        self.steps, self.rank = steps, rank
        self.key: tuple[Any, ...] = ()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step in self.steps and trainer.global_rank == self.rank:
            batch.latents[0][-1, 0, 0, 0, 0] = torch.nan
            self.key = batch.keys[len(batch.latents[0]) - 1]


def test_the_norm_of_all_gradients() -> None:
    network = torch.nn.Linear(3, 2)
    assert gradient_norm(network) == 0
    network(torch.ones(1, 3)).sum().backward()
    assert gradient_norm(network) == pytest.approx((6 + 2) ** 0.5)


def test_what_is_a_spike() -> None:
    guard = Guard(spike=10)
    assert guard.verdict(1e9) is None, "nothing is known yet"
    guard._norms.extend([1.0] * 19 + [2.0])
    assert guard.verdict(9.9) is None
    assert guard.verdict(10.1) == "a gradient norm of 10.1, 10 times the median of the last steps"
    assert Guard().verdict(1e9) is None
    for norm in (float("nan"), float("inf")):
        assert Guard().verdict(norm) == f"a gradient norm of {norm}"
    with pytest.raises(ValueError, match=r"got -1, 0\.0, 20"):
        Guard(max_skipped=-1)


def test_a_poisoned_sample_spoils_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither weights nor moments, nor the order of the data; the file names it among the samples of the step."""
    cli = MmflowCLI(command(tmp_path / "run", "--trainer.max_steps", 4, "--trainer.val_check_interval", 100))
    poison = Poison([2])
    cli.trainer.callbacks.append(poison)
    cli.run()
    assert "step 2 is skipped: a gradient norm of nan" in capfd.readouterr().out
    saved = load_plain(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert saved["global_step"] == 4 and saved["FlowData"]["position"] == 32
    assert {int(state["step"]) for state in saved["optimizer_states"][0]["state"].values()} == {3}
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())
    about = json.loads((tmp_path / "run" / "faults" / "step-000000002-rank-00000.json").read_text())
    last = about["steps"][-1]
    assert [step["step"] for step in about["steps"]] == [0, 1, 2] and len(last["samples"]) == 8
    (bad,) = [sample for sample in last["samples"] if sample["loss"] != sample["loss"]]
    assert tuple(bad["key"]) == poison.key and 0 <= bad["t"] <= 1
    assert (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].count("skipped_steps") == 1


def test_too_many_end_the_run(tmp_path: Path) -> None:
    cli = MmflowCLI(command(tmp_path / "run", "--trainer.max_steps", 6, "--guard.max_skipped", 1))
    cli.trainer.callbacks.append(Poison([1, 3]))
    with pytest.raises(NumbersError, match=r"2 of the last 4 steps had to be skipped, more than guard\.max_skipped 1"):
        cli.run()


@pytest.mark.slow
@pytest.mark.parametrize("layout", [(), ("--model.parallel.shard", "true")])
def test_all_processes_skip_the_same_steps(layout: tuple[str, ...], tmp_path: Path) -> None:
    poison = "--trainer.callbacks+=tests.train.test_guard.Poison --trainer.callbacks.init_args.steps=[1,2]"
    few = ("--trainer.max_steps", 5)
    fit(tmp_path / "two", *few, *layout, *poison.split(), "--trainer.callbacks.init_args.rank=1", num=2)
    found = losses(tmp_path / "two")
    assert len(found) == 5 and found[0] == found[0] and found[3] == found[3] and found[1] != found[1]
    assert len(list((tmp_path / "two" / "faults").glob("*-rank-00001.json"))) == 2
