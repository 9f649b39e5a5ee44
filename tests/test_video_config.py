"""configs/video_d16.yaml itself, made tiny on the command line: trains, continues, validates and predicts with random
encoders in the published layouts, on shards of generated pictures and clips.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmflow.__main__ import main
from mmflow.data.decode import decode_clip
from tests.encoders.published import CLIP_G, CLIP_L, T5, sd3_folder
from tests.test_bad_input import refused
from tests.test_cli import ROOT
from tests.tools.tool import clip, picture, run

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sd3_folder(tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for n in range(8):
        picture(folder / "in" / f"{n}.png", n).with_suffix(".txt").write_text(f"a photo of number {n}")
    for n in range(4):
        clip(folder / "in" / f"film{n}.mp4").with_suffix(".txt").write_text("a clip that grows bright")
    assert run("make", folder / "in", folder / "shards", "--val-fraction", 0.3).returncode == 0
    return folder / "shards"


def overrides(sd3: Path, folder: Path) -> list[str]:
    text, autoencoder, model = "data.text_encoder", "data.autoencoder", "model.backbone"
    values: dict[str, object] = {"trainer.default_root_dir": folder, "trainer.accelerator": "cpu"}
    for name, suffix, width in (("clip_l", "", CLIP_L), ("clip_g", "_2", CLIP_G), ("t5", "_3", T5)):
        values |= {f"{text}.{name}.path": sd3, f"{text}.{name}.subfolder": f"text_encoder{suffix}"}
        values |= {f"{text}.{name}.tokenizer_subfolder": f"tokenizer{suffix}", f"{text}.{name}.width": width}
        values |= {f"{text}.{name}.dtype": "fp32"}
    values |= {f"{autoencoder}.path": sd3, f"{autoencoder}.subfolder": "vae"}
    values |= {f"{model}.depth": 1, f"{model}.context_width": T5, f"{model}.pooled_width": CLIP_L + CLIP_G}
    values |= {"data.resolution": 32, "data.aspects": "[1.0]", "data.frames": 4, "data.batch_size": 4}
    values |= {"data.val_samples": 4, "data.num_workers": 0, "trainer.accumulate_grad_batches": 2}
    values |= {"model.precision": "fp32", "model.sampling.num_steps": 2, "model.sampling.precision": "fp32"}
    values |= {"previews.every_n_steps": 4, "previews.num_pictures": 2, "previews.num_clips": 1}
    values |= {"checkpoints.every_n_steps": 2, "ema.every_n_steps": 1, "wandb.mode": "off"}
    values |= {"trainer.val_check_interval": 4, "trainer.log_every_n_steps": 1, "model.lr_schedule.warmup_steps": 1}
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


def fit(sd3: Path, shards: Path, folder: Path, *more: object) -> None:
    config = ROOT / "configs" / "video_d16.yaml"
    shard_options = ("--data.train_shards", shards, "--data.val_shards", shards / "val")
    main(["fit", "--config", str(config), *overrides(sd3, folder), *map(str, (*shard_options, *more))])


@pytest.fixture(scope="module")
def whole(sd3: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    fit(sd3, shards, folder, "--trainer.max_steps", 4)
    return folder


def test_it_trains_and_leaves_what_a_run_leaves(whole: Path) -> None:
    header = (whole / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss_picture", "train/loss_clip", "val/loss"} <= set(header)
    assert json.loads((whole / "ledger.json").read_text())["position"] == 4 * 4
    grid = np.asarray(Image.open(whole / "previews" / "step-000000004" / "grid.png"))
    assert grid.std() > 0 and list((whole / "previews" / "step-000000004").glob("clip-*.mp4"))


def test_nothing_frozen_is_in_the_checkpoint(whole: Path) -> None:
    checkpoint = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"] and all(name.startswith("backbone.") for name in checkpoint["state_dict"])
    text = str(checkpoint.keys()) + str(
        [str(k) for value in checkpoint.values() if isinstance(value, dict) for k in value]
    )
    assert "text_model" not in text and "conv_in" not in text


def test_it_continues_exactly(whole: Path, sd3: Path, shards: Path, tmp_path: Path) -> None:
    fit(sd3, shards, tmp_path / "run", "--trainer.max_steps", 2)
    fit(sd3, shards, tmp_path / "run", "--trainer.max_steps", 4, "--ckpt_path", "last")
    ours, theirs = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (tmp_path / "run", whole)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_it_validates_and_predicts(whole: Path, sd3: Path, tmp_path: Path) -> None:
    main(["validate", "--ckpt_path", str(whole)])
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a photo of a dog", "width": 48}\n{"prompt": "a clip", "frames": 4}\n')
    main(["predict", "--ckpt_path", str(whole), "--data.prompts", str(prompts)])
    assert Image.open(whole / "predictions" / "00000.png").size == (48, 32)
    assert decode_clip((whole / "predictions" / "00001.mp4").read_bytes(), 4, 8.0, 0.0).shape == (4, 32, 32, 3)


def test_t5_may_be_absent_when_predicting(whole: Path, tmp_path: Path) -> None:
    before = (whole / "predictions" / "00000.png").read_bytes()
    arguments = ["predict", "--ckpt_path", str(whole), "--data.prompts", "a photo of a dog"]
    with pytest.warns(UserWarning, match="t5 is absent"):
        main([*arguments, "--data.text_encoder.t5.path", "/nowhere", "--data.text_encoder.absent", "[t5]"])
    assert Image.open(whole / "predictions" / "00000.png").size == (32, 32)
    assert (whole / "predictions" / "00000.png").read_bytes() != before
    assert (whole / "predictions-1" / "00000.png").read_bytes() == before


BAD = {
    "a repository that cannot be reached": (
        ["--data.autoencoder.path", "owner/gated", "--data.autoencoder.subfolder", ""],
        ["owner/gated", "https://huggingface.co/owner/gated", "--local-dir", "hf auth login"],
    ),
    "a folder that is not there": (["--data.autoencoder.path", "./nowhere"], ["./nowhere", "no such file or folder"]),
    "another stride": (
        ["--data.autoencoder.stride", "[1, 4, 4]"],
        ["stride (1, 8, 8)", "(1, 4, 4)", "--data.autoencoder.stride"],
    ),
    "other channels": (["--data.autoencoder.channels", 8], ["channels 16", "says 8"]),
    "buckets that are no whole latents": (["--data.multiple", 12], ["data.multiple 12", "8 x 8", "16"]),
    "sizes that the patches do not divide": (["--data.multiple", 8, "--data.resolution", 40], ["40", "patches of 2"]),
    "text of another width": (
        ["--data.text_encoder.clip_l.width", 40, "--model.backbone.pooled_width", 88],
        ["hidden_size 32", "says 40"],
    ),
    "frames that make no whole patch": (["--data.frames", 5], ["frames 5", "4 or 6 frames"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_encoders_are_told_before_training(
    name: str, sd3: Path, shards: Path, tmp_path: Path, capfd: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    arguments, words = BAD[name]
    config = str(ROOT / "configs" / "video_d16.yaml")
    said = refused(
        capfd, "fit", "--config", config, *overrides(sd3, tmp_path / "run"), "--data.train_shards", shards, *arguments
    )
    assert all(word in said for word in words), said
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.filterwarnings("ignore:the Frechet distance of")
def test_proxies_without_weights_are_a_line_each_and_the_others_score(whole: Path, capfd: Said) -> None:
    features = {"class_path": "mmflow.metrics.random_features.RandomFeatures", "init_args": {"width": 2}}
    distances = json.dumps([{"features": features}])
    main(["test", "--ckpt_path", str(whole), "--proxies.distances", distances, "--proxies.num_prompts", "4"])
    said = capfd.readouterr().out
    results = json.loads((whole / "results.json").read_text())["proxies"]
    names = ["clip_score/clip-vit-large-patch14", "hps_v2.1", "hps_v2.0", "pick_score", "image_reward"]
    assert list(results["absent"]) == names and all(f"{name}: left out, ./weights/" in said for name in names)
    kernels = {name: score for name, score in results["scores"].items() if name.startswith("kernel/")}
    assert kernels and all(score["n_reference"] >= 2 for score in kernels.values())
    store = whole / results["samples"]["folder"]
    assert results["samples"]["prompts"]["n"] == len(list((store / "media").glob("*.png")))
