"""The real commands, end to end on a CPU: fit, continue, start from, use; two processes; a folder of media."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmflow import Pipeline
from mmflow.cli import MmflowCLI, build
from mmflow.data.decode import decode_clip
from mmflow.flow import formulations
from mmflow.flow.shift import ConstantShift
from mmflow.train.loggers import wandb_id

ROOT = Path(__file__).parent.parent
TINY = str(ROOT / "tests" / "tiny.yaml")
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "COLUMNS": "200"}


def mmflow(*args: object, fails: bool = False, env: dict[str, str] = ENV, timeout: float = 300) -> str:
    """Runs `python -m mmflow ARGS`; its output."""
    command = [sys.executable, "-m", "mmflow", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=timeout)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def fit(folder: Path, *args: object, config: str = TINY, fails: bool = False) -> str:
    return mmflow("fit", "--config", config, "--trainer.default_root_dir", folder, *args, fails=fails)


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def losses(folder: Path) -> list[list[float]]:
    rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    return [[float(value) for value in row if value] for row in rows]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of six steps, with everything that a run leaves."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit(
        folder,
        *("--previews.every_n_steps", 6, "--previews.num_pictures", 3, "--previews.num_clips", 1),
        *("--scores.quick.prompts", 2, "--scores.quick.images", 1, "--scores.quick.held_out_prompts", 1),
        *("--trainer.val_check_interval", 3, "--wandb.mode", "offline"),
    )
    return folder


def test_a_run_leaves_what_it_promises(run: Path) -> None:
    for name in ("config.yaml", "metrics.csv", "ledger.json", "results.json", "checkpoints/last.ckpt", "wandb_id"):
        assert (run / name).is_file(), name
    preview = run / "previews" / "step-000000006"
    grid = np.asarray(Image.open(preview / "grid.png"))
    assert grid.ndim == 3 and grid.std() > 0
    (clip,) = preview.glob("*.mp4")
    assert decode_clip(clip.read_bytes(), 4, 8.0, 0.0).shape == (4, 32, 32, 3)
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"step", "train/loss", "train/loss_picture", "train/loss_clip", "val/loss", "lr"} <= set(header)
    assert json.loads((run / "ledger.json").read_text())["position"] == 6 * 8


def test_results_hold_every_score_with_interval_chance_and_held_out(run: Path) -> None:
    scores = json.loads((run / "results.json").read_text())["scores"]
    tasks = ("overall", "single_object", "two_object", "counting", "colors", "position", "color_attr")
    for name in [*(f"geneval/{task}" for task in tasks), "motion/accuracy"]:
        assert {"value", "low", "high", "n", "chance", "held_out"} <= set(scores[name]), name
        assert scores[name]["low"] <= scores[name]["value"] <= scores[name]["high"]
    assert set(scores["motion/accuracy"]["held_out"]) == {"comp_motion", "paraphrase"}


def test_an_offline_wandb_run_has_the_run_own_id(run: Path) -> None:
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert folder.name.endswith(wandb_id(run))
    assert (folder / f"run-{wandb_id(run)}.wandb").stat().st_size > 0
    media = {path.suffix for path in (folder / "files" / "media").rglob("*") if path.is_file()}
    assert {".png", ".mp4"} <= media


def test_weights_raw_and_averaged_are_both_kept(run: Path) -> None:
    state = checkpoint(run)
    raw = {n.removeprefix("backbone."): p for n, p in state["state_dict"].items()}
    assert raw.keys() == state["ema"]["average"].keys()
    assert any(not torch.equal(raw[n], state["ema"]["average"][n]) for n in raw)


def test_a_stopped_run_continues_bit_for_bit(run: Path, tmp_path: Path) -> None:
    fit(tmp_path / "run", "--trainer.max_steps", 3)
    stopped = tmp_path / "run" / "metrics.csv"
    stopped.write_text(stopped.read_text() + "3,9,9,9,9\n4,9,9,9,9\n")  # logged beyond the last checkpoint
    fit(tmp_path / "run", "--ckpt_path", "last")
    whole, continued = checkpoint(run), checkpoint(tmp_path / "run")
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, continued["state_dict"][name]), name
    for name, value in whole["ema"]["average"].items():
        assert torch.equal(value, continued["ema"]["average"][name]), name
    assert whole["FlowData"]["position"] == continued["FlowData"]["position"] == 48
    assert [row[0] for row in losses(tmp_path / "run")] == [0, 1, 2, 3, 4, 5]


def test_two_processes_and_accumulation_give_the_losses_of_one(run: Path, tmp_path: Path) -> None:
    fit(tmp_path / "one")
    fit(tmp_path / "two", "--trainer.devices", 2)
    fit(tmp_path / "accumulated", "--trainer.accumulate_grad_batches", 2)
    expected = np.array(losses(tmp_path / "one"))
    assert expected.shape == (6, 5)
    np.testing.assert_allclose(losses(tmp_path / "two"), expected, rtol=1e-5)
    np.testing.assert_allclose(losses(tmp_path / "accumulated"), expected, rtol=1e-5)


def test_two_processes_when_one_has_pictures_only(tmp_path: Path) -> None:
    """Three samples, at times two pictures and a clip: dealt by size, one rank has the clip and one the pictures."""
    arguments = ("--data.batch_size", 3, "--data.clip_share", 0.3, "--trainer.max_steps", 4)
    fit(tmp_path / "one", *arguments)
    fit(tmp_path / "two", *arguments, "--trainer.devices", 2)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 4
    for expected, found in zip(one, two, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_run_starts_from_the_weights_of_another(run: Path, tmp_path: Path) -> None:
    fit(tmp_path / "raw", "--model.init_from", f"{run}@raw", "--trainer.max_steps", 1, "--model.lr_schedule.floor", 0)
    fit(tmp_path / "ema", "--model.init_from", run, "--trainer.max_steps", 1)
    raw, ema = checkpoint(tmp_path / "raw"), checkpoint(tmp_path / "ema")
    assert raw["global_step"] == 1 and raw["FlowData"]["position"] == 8
    source = checkpoint(run)
    name = "backbone.blocks.0.visual.qkv.weight"
    assert torch.allclose(raw["state_dict"][name], source["state_dict"][name], atol=2e-4)
    average = source["ema"]["average"][name.removeprefix("backbone.")]
    assert torch.allclose(ema["state_dict"][name], average, atol=2e-4)


def predict(run: Path, out: Path, prompts: object, *args: object) -> list[dict]:
    mmflow("predict", "--ckpt_path", run, "--data.prompts", prompts, "--predictions.folder", out, *args)
    return [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]


def test_predict_from_a_file_of_prompts(run: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a red circle", "seed": 3},
        {"prompt": "a clip of a blue square moving left", "frames": 4, "guidance_scale": 1.5},
        {"prompt": "a frobnicated wug", "width": 64, "num_steps": 1},
        {"prompt": "a red circle", "seed": 4, "negative_prompt": "a blue circle"},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = predict(run, tmp_path / "out", file)
    assert [row["file"] for row in index] == ["00000.png", "00001.mp4", "00002.png", "00003.png"]
    assert index[1]["guidance_scale"] == 1.5 and index[0]["num_steps"] == 2 and index[0]["seed"] == 3
    assert index[2]["width"] == 64 and index[2]["height"] == 32
    assert Image.open(tmp_path / "out" / "00002.png").size == (64, 32)
    assert decode_clip((tmp_path / "out" / "00001.mp4").read_bytes(), 4, 8.0, 0.0).shape == (4, 32, 32, 3)
    assert "checkpoints/last.ckpt" in index[0]["checkpoint"]


def test_a_picture_depends_on_prompt_and_seed_alone(run: Path, tmp_path: Path) -> None:
    many = tmp_path / "many.txt"
    many.write_text("a green cross\na red circle\n\na blue square\n")
    predict(run, tmp_path / "many", many)
    predict(run, tmp_path / "one", "a red circle", "--model.sampling.batch_size", 1)
    among = np.asarray(Image.open(tmp_path / "many" / "00001.png")).astype(int)
    alone = np.asarray(Image.open(tmp_path / "one" / "00000.png")).astype(int)
    assert np.abs(among - alone).max() <= 1
    (from_python,) = Pipeline.load(run)("a red circle", seed=0)
    assert np.abs(from_python[0].astype(int) - alone).max() <= 1


def test_validate_and_test_use_a_run_by_its_folder(run: Path) -> None:
    small = ("--scores.full.prompts", 1, "--scores.full.images", 2, "--scores.full.held_out_prompts", 0)
    said = mmflow("validate", "--ckpt_path", run, *small)
    assert "geneval/overall" in said and "chance" in said
    assert json.loads((run / "results.json").read_text())["step"] == 6
    mmflow("test", "--ckpt_path", run / "checkpoints" / "last.ckpt", *small)
    first = run / "samples" / "iid" / "00000"
    assert json.loads((first / "metadata.jsonl").read_text())["tag"] == "single_object"
    assert sorted(path.name for path in (first / "samples").iterdir()) == ["0000.png", "0001.png"]


@pytest.mark.parametrize("name", ["edm(-1.20,1.20)", "edm/cos"])
def test_a_formulation_is_its_parts_and_leaves_the_shift(name: str, tmp_path: Path) -> None:
    config = ("--config", TINY, "--model.objective.shift", "ConstantShift", "--model.objective.shift.value", "3")
    cli = MmflowCLI(["fit", *config, "--model.formulation", name], for_use=False)
    assert cli.model.objective == formulations.parse(name, ConstantShift(3.0))
    # What a run keeps says it in parts, and reads back as the same.
    (tmp_path / "config.yaml").write_text(cli._yaml())
    assert "formulation: null" in cli._yaml()
    assert build(tmp_path / "config.yaml")[0].objective == cli.model.objective


def test_auto_resume_starts_and_then_continues(tmp_path: Path) -> None:
    fit(tmp_path / "run", "--resume", "auto", "--trainer.max_steps", 3)
    said = fit(tmp_path / "run", "--resume", "auto", "--trainer.max_steps", 4)
    assert "continued from" in said and checkpoint(tmp_path / "run")["global_step"] == 4


def test_a_folder_of_media_becomes_a_run(tmp_path: Path) -> None:
    from mmflow.export import write_mp4

    media, rng = tmp_path / "media", np.random.default_rng(0)
    media.mkdir()
    for i in range(12):
        size = [(40, 60), (60, 40), (48, 48)][i % 3]
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(media / f"p{i}.png")
        (media / f"p{i}.txt").write_text(f"noise number {i}")
    for i in range(6):
        write_mp4(media / f"c{i}.mp4", rng.integers(0, 255, (12, 48, 64, 3), dtype=np.uint8), 8)
        (media / f"c{i}.txt").write_text(f"moving noise {i}")
    tool = [sys.executable, str(ROOT / "tools" / "shards.py"), "make", str(media), str(tmp_path / "shards")]
    subprocess.run(tool, check=True, capture_output=True, env=ENV)
    said = fit(
        tmp_path / "run",
        *("--data.train_shards", tmp_path / "shards", "--data.resolution", 32, "--data.multiple", 8),
        *("--data.frames", 4, "--data.aspects", "[0.667,1.0,1.5]", "--data.num_workers", 1),
        *("--previews.every_n_steps", 6, "--previews.num_pictures", 2, "--previews.num_clips", 1),
    )
    assert "hash-chosen 1 %" in said
    assert json.loads((tmp_path / "run" / "ledger.json").read_text())["samples"] == {"used": 48}
    assert list((tmp_path / "run" / "previews" / "step-000000006").glob("*.mp4"))
    index = predict(tmp_path / "run", tmp_path / "out", "noise number 1")
    assert index[0]["width"] == 32
