"""Steps that would spoil the weights: skipped, told, and the end of a run when there are too many."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from mmflow.__main__ import main
from mmflow.cli import MmflowCLI
from mmflow.train import guard
from mmflow.train.guard import Guard, gradient_norm
from mmflow.train.storage import load_plain, read_plain
from tests.train.runs import command, fit, losses


class Poison(Callback):
    """Spoils one number of one sample's latents in the stated steps, or wherever a sample of those names is."""

    def __init__(self, steps: list[int] = [], rank: int = 0, names: list[str] = [], to: str = "nan") -> None:  # noqa: B006
        self.steps, self.rank, self.names, self.to = steps, rank, names, float(to)
        self.key: tuple[Any, ...] = ()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step in self.steps and trainer.global_rank == self.rank:
            batch.latents[0][-1, 0, 0, 0, 0] = self.to
            self.key = batch.keys[len(batch.latents[0]) - 1]
        samples = [z[i] for z in batch.latents for i in range(len(z))]
        for key, sample in zip(batch.keys, samples, strict=True):
            if "/".join(map(str, key)) in self.names:
                sample[0, 0, 0, 0] = self.to


def test_the_norm_of_all_gradients() -> None:
    network = torch.nn.Linear(3, 2)
    assert gradient_norm(network) == 0
    network(torch.ones(1, 3)).sum().backward()
    assert gradient_norm(network) == pytest.approx((6 + 2) ** 0.5)


def test_what_is_a_spike() -> None:
    found = Guard(spike=10)
    assert found.verdict(1e9) is None, "nothing is known yet"
    found._norms.extend([1.0] * 19 + [2.0])
    assert found.verdict(9.9) is None
    assert found.verdict(10.1) == "a gradient norm of 10.1, 10 times the median of the last steps"
    assert Guard().verdict(1e9) is None
    for norm in (float("nan"), float("inf")):
        assert Guard().verdict(norm) == f"a gradient norm of {norm}"
    with pytest.raises(ValueError, match=r"got -1, 0\.0, 20"):
        Guard(max_skipped=-1)


def test_a_continued_run_knows_what_came_before() -> None:
    before, after = Guard(spike=10), Guard(spike=10)
    before._norms.extend([1.0] * 20)
    before._bad.extend([0] * 20 + [1])
    before.skipped = 1
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert after.verdict(10.1) == before.verdict(10.1) is not None
    assert after.skipped == 1 and list(after._bad) == list(before._bad)


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
    (kept,) = [state for name, state in saved["callbacks"].items() if "Guard" in name]
    assert kept["skipped"] == 1 and kept["bad"] == [0, 0, 1, 0] and len(kept["norms"]) == 3
    about = json.loads((tmp_path / "run" / "faults" / "step-000000002-rank-00000.json").read_text())
    last = about["steps"][-1]
    assert [step["step"] for step in about["steps"]] == [0, 1, 2] and len(last["samples"]) == 8
    (bad,) = [sample for sample in last["samples"] if sample["loss"] != sample["loss"]]
    assert tuple(bad["key"]) == poison.key and 0 <= bad["t"] <= 1
    assert (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].count("skipped_steps") == 1


def test_too_many_end_the_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For good: another start would come to the same place."""
    monkeypatch.setenv("MMFLOW_VERDICT", str(tmp_path / "verdict"))
    poison = ("--trainer.callbacks+=tests.train.test_guard.Poison", "--trainer.callbacks.init_args.steps=[1,3]")
    with pytest.raises(SystemExit) as end:
        main(command(tmp_path / "run", "--trainer.max_steps", 6, "--guard.max_skipped", 1, *poison))
    said = capfd.readouterr().err
    assert end.value.code == 1 and (tmp_path / "verdict").read_text() == "fatal" and "Traceback" not in said
    assert "2 of the last 4 steps had to be skipped, more than guard.max_skipped 1" in said
    assert len(list((tmp_path / "run" / "faults").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "layout"), [("nan", ()), ("inf", ("--model.parallel.shard", "true")), ("1e6", ()), ("-inf", ())]
)
def test_all_processes_skip_the_same_steps(
    to: str, layout: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of one of them spoils two steps for both. The data goes on as if it had not."""
    monkeypatch.setattr(guard, "WARMUP", 1)
    init = "--trainer.callbacks.init_args"
    poison = ("--trainer.callbacks+=tests.train.test_guard.Poison", f"{init}.steps=[1,2]", f"{init}.to={to}")
    few = ("--trainer.max_steps", 5, "--guard.spike", 50)
    fit(tmp_path / "two", *few, *layout, *poison, f"{init}.rank=1", num=2)
    found = losses(tmp_path / "two")
    assert len(found) == 5 and all(abs(found[step]) < 10 for step in (0, 3, 4))
    assert not any(abs(found[step]) < 10 for step in (1, 2))
    files = sorted((tmp_path / "two" / "faults").glob("*.json"))
    assert [file.stem for file in files] == [f"step-{s:09d}-rank-{r:05d}" for s in (1, 2) for r in (0, 1)]
    why = [json.loads(file.read_text())["why"] for file in files]
    assert why[0] == why[1] and why[2] == why[3] and ("times the median" in why[0]) == (to == "1e6")
    position = read_plain(tmp_path / "two" / "checkpoints" / "last.ckpt")["FlowData"]["position"]
    assert position == 5 * 8
