"""The same losses on every layout of the processes: the real command, several processes with gloo."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmflow.train.storage import StoredTensors, load_plain
from mmflow.train.weights import load_weights
from tests.tools.load import load
from tests.train.runs import fit, losses, whole

TOOL = load("export")

SHARD = ("--model.parallel.shard", "true")
STEPS = ("--trainer.max_steps", 10, "--trainer.val_check_interval", 5)
LOOKS = (
    *("--previews.every_n_steps", 10, "--previews.num_pictures", 2, "--previews.num_clips", 1),
    *("--scores.quick.prompts", 1, "--scores.quick.images", 1, "--scores.quick.held_out_prompts", 0),
    *("--rehearsal.when", "always"),
)
LAYOUTS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "2 x DDP": (2, LOOKS),
    "accumulation": (1, ("--trainer.accumulate_grad_batches", 2)),
    "2 x FSDP2": (2, (*SHARD, *LOOKS)),
    "2 x FSDP2, accumulation, summed once": (
        2,
        (*SHARD, "--trainer.accumulate_grad_batches", 2, "--model.parallel.reduce", "step"),
    ),
    "2 x 2 HSDP, accumulation": (
        4,
        (*SHARD, "--model.parallel.replicas", 2, "--trainer.accumulate_grad_batches", 2),
    ),
    "2 x FSDP2, blocks computed again": (2, (*SHARD, "--model.parallel.recompute", "block")),
    "selectively computed again": (1, ("--model.parallel.recompute", "selective")),
}
SAMPLES: dict[str, tuple[Any, ...]] = {
    "three samples: one process has a clip, one pictures": ("--data.batch_size", 3, "--data.clip_share", 0.3),
    "one sample: a process has none": ("--data.batch_size", 1),
    "pictures only": ("--data.clip_share", 0),
    "steps of one shape": ("--data.packing", "bucketed"),
    "attention over time of its own": (
        *("--data.batch_size", 3, "--data.clip_share", 0.3),
        *("--model.backbone.design.temporal", "added"),
    ),
    "Muon": ("--model.optimizer", "Muon"),
}


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same(run: Path, expected: Path) -> None:
    """Losses of training, of validation, and the weights at the end."""
    assert len(losses(expected)) == 10
    np.testing.assert_allclose(losses(run), losses(expected), rtol=1e-4)
    here, there = (
        {row["step"]: float(row["val/loss"]) for row in table(f) if row.get("val/loss")} for f in (run, expected)
    )
    assert len(there) == 2  # Lightning counts micro-steps: with accumulation there are more validations in between
    np.testing.assert_allclose([here[step] for step in there], list(there.values()), rtol=1e-4)
    # AdamW makes a step of up to the learning rate out of a gradient that is rounding alone: ten of them, either way.
    for name, value in whole(expected).items():
        torch.testing.assert_close(whole(run)[name], value, rtol=0, atol=2e-3)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts") / "one"
    fit(folder, *STEPS)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_does_not_show(name: str, one: Path, tmp_path: Path) -> None:
    num, args = LAYOUTS[name]
    fit(tmp_path / "run", *STEPS, *args, num=num)
    same(tmp_path / "run", one)
    if "--previews.every_n_steps" in args:
        assert (tmp_path / "run" / "previews" / "step-000000010" / "grid.png").is_file()
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert results["hours"]["train"] > 0 and results["hours"]["waste"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_nor_do_the_samples_of_each_process(name: str, tmp_path: Path) -> None:
    fit(tmp_path / "one", *STEPS, *SAMPLES[name])
    for layout, more in (("ddp", ()), ("fsdp", SHARD)):
        fit(tmp_path / layout, *STEPS, *SAMPLES[name], *more, num=2)
        same(tmp_path / layout, tmp_path / "one")


@pytest.mark.slow
def test_bf16_weights_have_fp32_masters(one: Path, tmp_path: Path) -> None:
    fit(tmp_path / "run", *STEPS, *SHARD, "--model.precision", "bf16", num=2)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(one), rtol=0.02)
    assert losses(tmp_path / "run") != losses(one)
    stored = StoredTensors(tmp_path / "run" / "checkpoints" / "last.ckpt")
    kinds = {name: stored.bare(name).dtype for name in stored}
    assert sum("exp_avg" in name for name in kinds) > 10 and sum('"ema"' in name for name in kinds) > 10
    assert {kind for name, kind in kinds.items() if stored.bare(name).ndim} == {torch.float32}


EMA = ("--ema.decay", "[0.5,0.9]")


def same_averages(run: Path, expected: Path) -> None:
    for kind in ("raw", "ema", "ema:0.9"):
        found = load_weights(f"{run}@{kind}")
        for name, value in load_weights(f"{expected}@{kind}").items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_a_sharded_run_continues_alone(tmp_path: Path) -> None:
    """A folder of shards loads into one process; averages of several lengths come along."""
    fit(tmp_path / "whole", *EMA, "--trainer.max_steps", 3)
    fit(tmp_path / "run", *EMA, *SHARD, "--trainer.max_steps", 2, num=2)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert load_plain(last / "plain.pt")["ema"]["updates"] == [2, 2] and len(list(last.glob("*.distcp"))) == 2
    sharded = load_weights(f"{last}@ema:0.9")
    assert TOOL.main([str(tmp_path / "run"), str(tmp_path / "out"), "--weights", "ema:0.9"]) == 0
    (file,) = (tmp_path / "out" / "transformer").glob("*.safetensors")
    for name, value in load_file(file).items():
        assert torch.equal(value, sharded[name]), name
    fit(tmp_path / "run", *EMA, "--ckpt_path", "last", "--trainer.max_steps", 3)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "whole"), rtol=2e-5)
    same_averages(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_file_continues_as_shards_and_shards_as_more_of_them(one: Path, tmp_path: Path) -> None:
    fit(tmp_path / "run", *STEPS, *EMA, "--trainer.max_steps", 4)
    for num, end, more in ((2, 6, ()), (4, 8, ("--model.parallel.replicas", 2)), (3, 10, ())):
        fit(tmp_path / "run", *STEPS, *EMA, *SHARD, *more, "--ckpt_path", "last", "--trainer.max_steps", end, num=num)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(one), rtol=1e-4)
    fit(tmp_path / "whole", *STEPS, *EMA)
    same_averages(tmp_path / "run", tmp_path / "whole")
