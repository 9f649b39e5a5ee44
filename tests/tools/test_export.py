"""tools/export.py on a run: what the stock programs cannot hold comes back whole, and an inflation is proved."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline
from safetensors import safe_open

from mmflow import Pipeline
from mmflow.__main__ import main as mmflow
from mmflow.train.weights import load_weights
from tests.test_cli import TINY
from tests.tools.load import load

export = load("export")

BACKBONE = "--model.backbone.init_args"


def fit(folder: Path, *args: object) -> Path:
    mmflow([str(a) for a in ("fit", "--config", TINY, "--trainer.default_root_dir", folder, *args)])
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pictures, and one of clips that was inflated from it."""
    folder = tmp_path_factory.mktemp("runs")
    pictures = (f"{BACKBONE}.video_patch_size", "null", "--data.clip_share", "0", "--model.optimizer.lr", "1e-2")
    fit(folder / "pictures", *pictures)
    fit(folder / "clips", "--model.init_from", folder / "pictures")
    return folder


Said = pytest.CaptureFixture[str]


def run(capsys: Said, *args: object) -> tuple[int, str]:
    status = export.main([str(a) for a in args])
    out, err = capsys.readouterr()
    return status, out + err


def test_what_the_stock_pipeline_cannot_hold_comes_with_its_own(runs: Path, tmp_path: Path, capsys: Said) -> None:
    status, said = run(capsys, runs / "clips", tmp_path / "out")
    assert status == 0 and "no, because of" in said
    for reason in ("3D patchifier (4, 8, 8)", "RgbAutoencoder", "HashedWords", "packed text"):
        assert reason in said and reason in (tmp_path / "out" / "README.md").read_text()
    pipe = DiffusionPipeline.from_pretrained(
        tmp_path / "out", custom_pipeline=str(tmp_path / "out"), trust_remote_code=True
    )
    ours = Pipeline.load(runs / "clips")
    for frames, size in ((4, {"height": 32, "width": 64}), (1, {})):
        made = pipe(["a red circle", "a star"], seed=3, num_frames=frames, num_inference_steps=3, **size).frames
        expected = ours(["a red circle", "a star"], seed=3, frames=frames, num_steps=3, **size)
        assert len(made) == 2 and made[0].std() > 0
        assert all(np.array_equal(a, b) for a, b in zip(made, expected, strict=True))
    exported = load_weights(str(tmp_path / "out"))
    kept = load_weights(f"{runs / 'clips'}@ema")
    assert exported.keys() == kept.keys() and all(torch.equal(exported[n], kept[n]) for n in kept)
    with safe_open(next((tmp_path / "out" / "transformer").glob("*.safetensors")), "np") as opened:
        assert opened.metadata()["modelspec.title"] == "clips"


def test_an_exported_folder_starts_a_run_and_does_not_need_the_first_one(runs: Path, tmp_path: Path) -> None:
    export.main([str(runs / "clips"), str(tmp_path / "out"), "--weights", "raw"])
    fit(tmp_path / "next", "--model.init_from", tmp_path / "out", "--trainer.max_steps", 1)
    assert (tmp_path / "next" / "checkpoints" / "last.ckpt").is_file()


def test_refusals(runs: Path, tmp_path: Path, capsys: Said) -> None:
    status, said = run(capsys, runs / "clips", tmp_path / "x.safetensors", "--format", "single-file")
    assert status == 1 and "a single file cannot hold this model" in said and "3D patchifier" in said
    status, said = run(capsys, runs / "clips", tmp_path / "y", "--pictures-only")
    assert status == 0 and "3D patchifier" not in said
    assert not any("video" in name for name in load_weights(str(tmp_path / "y")))
    status, said = run(capsys, tmp_path / "nowhere", tmp_path / "z")
    assert status == 1 and "has no config.yaml" in said


def test_the_inflation_is_proved(runs: Path, tmp_path: Path, capsys: Said) -> None:
    status, said = run(capsys, runs / "clips", "--verify-inflation")
    assert status == 0 and said.count("ok ") == 3, said
    config = yaml.safe_load((runs / "clips" / "config.yaml").read_text())
    config["model"]["backbone"]["init_args"]["design"]["temporal"] = "added"
    (tmp_path / "added.yaml").write_text(yaml.safe_dump(config))
    status, said = run(capsys, tmp_path / "added.yaml", "--verify-inflation")
    assert status == 0 and said.count("ok ") == 3, said
    status, said = run(capsys, runs / "pictures", "--verify-inflation")
    assert status == 1 and "nothing was inflated" in said


def test_an_inflation_that_is_none_is_found_out(runs: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mmflow.model.grow.inflate",
        lambda weight, name, channels, patch: (
            torch.cat([weight] * patch[0], 1 if name == "embed.weight" else 0) if name != "embed.bias" else weight
        ),
    )
    status, said = run(capsys, runs / "clips", "--verify-inflation")
    assert status == 1 and "FAIL a picture repeated" in said
