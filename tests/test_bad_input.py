"""What the user gets wrong: the real command stops before training, names the key, file or number, and the way out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmflow.__main__ import main
from tests.test_cli import ENV, ROOT, TINY
from tests.test_cli import fit as fit_whole

Said = pytest.CaptureFixture[str]

BACKBONE = "--model.backbone"
FIT = {
    "unknown key": (["--model.backbone.init_args.dept", "2"], ["dept"]),
    "unknown key of the data": (["--data.batchsize", "2"], ["batchsize"]),
    "unknown class": (["--model.optimizer", "Lion"], ["Lion"]),
    "size not divisible by the patch": (["--data.world.size", "36"], ["36", "patch", "8", "32", "40"]),
    "frames not divisible by the temporal patch": (["--data.world.frames", "6"], ["frames 6", "4 and 8"]),
    "channels of autoencoder and model disagree": ([f"{BACKBONE}.in_channels", "16"], ["3", "16", "in_channels"]),
    "text widths disagree": ([f"{BACKBONE}.context_width", "64"], ["32", "64", "context_width"]),
    "xformers on a CPU": ([f"{BACKBONE}.attention", "xformers"], ["xformers", "CUDA", "sdpa"]),
    "no depth": ([f"{BACKBONE}.depth", "0"], ["depth", "0"]),
    "batch of none": (["--data.batch_size", "0"], ["batch_size", "0"]),
    "share outside 0..1": (["--data.clip_share", "1.5"], ["clip_share", "1.5"]),
    "unknown shape": (["--data.world.shapes", "[circle, blob]"], ["blob", "triangle"]),
    "epochs of a world without end": (["--data.epochs", "1"], ["epochs", "max_steps"]),
    "shards that are not there": (["--data.train_shards", "nowhere/*.tar"], ["nowhere/*.tar"]),
    "last without a checkpoint": (["--ckpt_path", "last"], ["last", "--resume auto"]),
    "a checkpoint that is not there": (["--ckpt_path", "missing.ckpt"], ["missing.ckpt"]),
    "weights that are not there": (["--model.init_from", "missing.safetensors"], ["missing.safetensors"]),
    "unknown formulation": (["--model.formulation", "rf/cosmpa"], ["rf/cosmpa", "rf/cosmap"]),
    "mode outside of its range": (["--model.formulation", "rf/mode(1.8)"], ["1.8", "1.7519"]),
    "formulation and its parts": (
        ["--model.formulation", "rf/cosmap", "--model.objective.density", "LogitNormal"],
        ["rf/cosmap", "model.objective.density"],
    ),
    "guidance over no interval": (["--model.sampling.guidance_interval", "[0.7,0.2]"], ["guidance_interval", "0.7"]),
    "std of zero": (
        ["--model.objective.density", "LogitNormal", "--model.objective.density.std", "0"],
        ["std", "0"],
    ),
}


def refused(capfd: Said, *args: object) -> str:
    """What `python -m mmflow ARGS` says when it ends with an error, run in this process."""
    with pytest.raises(SystemExit) as end:
        main([str(arg) for arg in args])
    out, err = capfd.readouterr()
    assert end.value.code not in (0, None) and "Traceback" not in err
    return out + err


def refused_fit(capfd: Said, folder: Path, *args: object) -> str:
    return refused(capfd, "fit", "--config", TINY, "--trainer.default_root_dir", folder, *args)


@pytest.mark.parametrize("name", FIT)
def test_fit_refuses(name: str, tmp_path: Path, capfd: Said) -> None:
    arguments, words = FIT[name]
    said = refused_fit(capfd, tmp_path / "run", *arguments)
    for word in words:
        assert word in said, said
    assert not (tmp_path / "run" / "metrics.csv").exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_the_command_itself_ends_with_a_status_and_one_message(tmp_path: Path) -> None:
    arguments = ("--config", TINY, "--trainer.default_root_dir", tmp_path / "run", "--data.batch_size", 0)
    command = [sys.executable, "-m", "mmflow", "fit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, cwd=ROOT)
    assert done.returncode == 1 and "batch_size" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit_whole(folder, "--trainer.max_steps", 1)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_used_run_directory_is_refused_with_both_ways_out(trained: Path, capfd: Said) -> None:
    before = contents(trained)
    said = refused_fit(capfd, trained)
    assert "--ckpt_path last" in said and "--trainer.default_root_dir" in said and str(trained) in said
    assert contents(trained) == before


def test_a_checkpoint_of_another_depth(trained: Path, tmp_path: Path, capfd: Said) -> None:
    before = contents(trained)
    for arguments in (("--ckpt_path", trained / "checkpoints" / "last.ckpt"), ("--model.init_from", trained)):
        said = refused_fit(capfd, tmp_path / "other", "--model.backbone.depth", 2, *arguments)
        assert "depth 1" in said and "depth 2" in said and "--model.backbone.depth 1" in said
    assert contents(trained) == before


def test_other_data_cannot_be_continued(trained: Path, capfd: Said) -> None:
    said = refused_fit(capfd, trained, "--ckpt_path", "last", "--data.seed", 4, "--trainer.max_steps", 2)
    assert "seed: 0 -> 4" in said and "--model.init_from" in said


def test_pickles_are_not_run(tmp_path: Path, capfd: Said) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (os.system, (f"touch {tmp_path / 'sprung'}",))

    torch.save({"state_dict": Trap()}, tmp_path / "trap.ckpt")
    said = refused_fit(capfd, tmp_path / "run", "--model.init_from", tmp_path / "trap.ckpt")
    assert "trap.ckpt" in said and "safetensors" in said
    assert not (tmp_path / "sprung").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no /proc")
def test_an_unwritable_folder(capfd: Said) -> None:
    said = refused_fit(capfd, Path("/proc/mmflow-run"))
    assert "/proc/mmflow-run" in said and "--trainer.default_root_dir" in said


def test_predict_needs_prompts_and_weights(trained: Path, tmp_path: Path, capfd: Said) -> None:
    assert "--data.prompts" in refused(capfd, "predict", "--ckpt_path", trained)
    alone = tmp_path / "alone.ckpt"
    shutil.copy(trained / "checkpoints" / "last.ckpt", alone)
    for path in (alone, tmp_path / "missing.ckpt"):
        said = refused(capfd, "validate", "--ckpt_path", path)
        assert str(path) in said and "no config.yaml" in said and "--config" in said
    assert "--ckpt_path" in refused(capfd, "predict", "--config", TINY, "--data.prompts", "a red circle")
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert "empty.txt" in refused(capfd, "predict", "--ckpt_path", trained, "--data.prompts", empty)
    assert "missing.txt" in refused(
        capfd, "predict", "--ckpt_path", trained, "--data.prompts", tmp_path / "missing.txt"
    )
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "a red circle"}\n{"prompt": "a", "frams": 4}\n')
    said = refused(capfd, "predict", "--ckpt_path", trained, "--data.prompts", bad)
    assert "bad.jsonl" in said and "2" in said and "frams" in said
    bad.write_text('{"prompt": "a red circle", "frames": 5}\n')
    assert "frames 5" in refused(capfd, "predict", "--ckpt_path", trained, "--data.prompts", bad)
    bad.write_text('{"prompt": "a red circle", "width": 33}\n')
    assert "width 33" in refused(capfd, "predict", "--ckpt_path", trained, "--data.prompts", bad)


def test_a_raw_folder_of_media_prints_the_line_to_paste(tmp_path: Path, capfd: Said) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    said = refused_fit(capfd, tmp_path / "run", "--data.train_shards", tmp_path / "photos")
    assert f"python tools/shards.py make {tmp_path / 'photos'}" in said
