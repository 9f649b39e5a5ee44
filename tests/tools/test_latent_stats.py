"""The verb latent-stats: what it writes normalises the very latents it was measured on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tool import clip, picture, run

from mmflow.encoders.diffusers_autoencoder import DiffusersAutoencoder
from tests.encoders.published import picture_autoencoder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for n in range(3):
        picture(folder / "in" / f"{n}.png", n).with_suffix(".txt").write_text("noise")
    clip(folder / "in" / "film.mp4").with_suffix(".txt").write_text("a film")
    assert run("make", folder / "in", folder / "out").returncode == 0
    return folder / "out"


@pytest.mark.parametrize("options", [[], ["--per-channel"]])
def test_it_normalises_what_it_measured(shards: Path, tmp_path: Path, options: list[str]) -> None:
    picture_autoencoder(tmp_path / "vae", channels=4, levels=2)
    file = tmp_path / "statistics.json"
    done = run("latent-stats", shards, file, "--autoencoder", tmp_path / "vae", "--resolution", 32, *options)
    assert done.returncode == 0, done.stderr
    assert f"--data.autoencoder.statistics {file}" in done.stdout and "4 samples" in done.stdout
    found = json.loads(file.read_text())
    assert found["samples"] == 4 and found["autoencoder"] == str(tmp_path / "vae")
    ours = DiffusersAutoencoder(str(tmp_path / "vae"), statistics=str(file))
    images = [Image.open(shards.parent / "in" / f"{n}.png").resize((32, 32)) for n in range(3)]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)[:, :, None] / 127.5 - 1
    latents = ours.encode(pixels)
    assert latents.mean().abs() < 1.5 and 0.2 < latents.std() < 2, "about normal, even on these few"


def test_what_cannot_be_measured(shards: Path, tmp_path: Path) -> None:
    picture_autoencoder(tmp_path / "vae", levels=2)
    for options, words in (
        (["--autoencoder", tmp_path / "none"], ["none", "no such file or folder"]),
        (["--autoencoder", tmp_path / "vae", "--samples", 0], ["--samples 0"]),
        (["--autoencoder", tmp_path / "vae", "--resolution", 1], ["1"]),
    ):
        done = run("latent-stats", shards, tmp_path / "out.json", *options)
        assert done.returncode == 1 and all(word in done.stderr for word in words), done.stderr
    assert not (tmp_path / "out.json").exists()
