"""Too little memory is known before the first step, and said in words that help; enough of it shows nowhere."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from mmflow.cli import MmflowCLI
from mmflow.train import rehearsal
from mmflow.train.parallel import Parallel
from mmflow.train.preflight import PreflightError
from mmflow.train.rehearsal import shapes_of, sizes_of, way_out
from mmflow.train.storage import load_plain
from tests.train.runs import command, losses

SHORT = ("--trainer.max_steps", 1, "--data.batch_size", 4, "--data.val_samples", 0)
ALWAYS = ("--rehearsal.when", "always")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore of it")


def test_samples_by_their_shapes() -> None:
    latents = (
        torch.zeros(3, 4, 1, 8, 8),
        torch.zeros(2, 4, 1, 8, 8),
        torch.zeros(1, 4, 2, 8, 8),
        torch.zeros(0, 4, 1, 2, 2),
    )
    assert shapes_of(sizes_of(latents)) == "1 of 2 x 8 x 8, 5 of 1 x 8 x 8"
    assert shapes_of(()) == "no samples"


def test_the_key_to_lower() -> None:
    plain, all_done = Parallel(), Parallel(shard=True, recompute="block")
    assert way_out(4, 9000, 8000, False, all_done) == "lower data.tokens_per_device, now 9000"
    assert way_out(4, None, 8000, False, all_done).startswith("set data.tokens_per_device below 8000")
    assert "lower data.resolution or data.frames: one sample is too large" in way_out(1, 9000, 8000, False, plain)
    assert "data.world.size" in way_out(1, None, 8000, True, plain)
    assert "model.parallel.recompute block" in way_out(4, 9, 8, False, plain)
    assert "model.parallel.shard true" in way_out(4, 9, 8, False, Parallel(recompute="selective"))


def test_a_rehearsal_leaves_nothing_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Losses, weights, moments and the place in the data are those of a run without one."""
    saved = []
    for name, when in (("with", ALWAYS), ("without", ())):
        cli = MmflowCLI(command(tmp_path / name, *SHORT, *when))
        cli.run()
        saved.append(load_plain(tmp_path / name / "checkpoints" / "last.ckpt"))
    said = capfd.readouterr().out
    assert said.count("rehearsed: the costliest pack, 2 of 4 x 32 x 32, 2 of 1 x 32 x 32, ") == 1
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    one, other = saved
    assert one["FlowData"]["position"] == other["FlowData"]["position"] == 4
    for name, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][name]), name
    for number, state in one["optimizer_states"][0]["state"].items():
        assert all(torch.equal(v, other["optimizer_states"][0]["state"][number][k]) for k, v in state.items())


def test_too_little_memory_is_said_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(module: Any, batch: Any) -> Any:
        raise FULL

    monkeypatch.setattr(rehearsal, "gradients", full)
    cli = MmflowCLI(command(tmp_path / "run", *SHORT, *ALWAYS))
    with pytest.raises(PreflightError) as refused:
        cli.run()
    said = str(refused.value)
    for words in (
        "rank 0 on ",
        "the costliest pack of the plan, 2 of 4 x 32 x 32, 2 of 1 x 32 x 32, ",
        "set data.tokens_per_device below",
        "Tried to allocate 2.00 GiB",
    ):
        assert words in said, said
    assert not losses_of(tmp_path / "run")


def losses_of(run: Path) -> list[float]:
    return losses(run) if (run / "metrics.csv").exists() else []


class Full(Callback):
    """Has no memory left in a step."""

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise FULL


def test_nor_in_a_later_step_is_it_said_without_its_pack(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cli = MmflowCLI(command(tmp_path / "run", *SHORT, "--data.tokens_per_device", 400))
    cli.trainer.callbacks.append(Full())
    with pytest.raises(torch.OutOfMemoryError):
        cli.run()
    said = capfd.readouterr().err
    assert "rank 0 on " in said and "step 0, " in said and " of 1 x 32 x 32" in said and "visual tokens" in said
    assert "lower data.tokens_per_device, now 400" in said
