"""A run of configs/video_d16.yaml, made tiny, from a cache of its autoencoder and its three text encoders: none of them
is loaded, and the losses are those of the run that encodes online.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmflow.encoders import identity
from mmflow.encoders.frozen import Frozen
from tests.test_cli import ROOT
from tests.test_video_config import fit, overrides, sd3, shards  # noqa: F401 - the last two are fixtures
from tests.tools.tool import run

pytestmark = pytest.mark.slow
PARTS = ("latents", "clip_l", "clip_g", "t5")


def losses(folder: Path) -> list[tuple[float, float]]:
    """(training, validation) loss of every step."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [(float(row["train/loss"] or 0), float(row["val/loss"] or 0)) for row in csv.DictReader(file)]


def encode(sd3: Path, shards: Path, out: Path, *options: object) -> str:  # noqa: F811
    config = ("--config", ROOT / "configs" / "video_d16.yaml")
    data = ("--data.train_shards", shards, "--data.val_shards", shards / "val")
    done = run("encode", *config, out, *options, *overrides(sd3, out.parent / "run"), *data)
    assert done.returncode == 0, done.stderr
    return done.stdout


def trained(sd3: Path, shards: Path, folder: Path, *options: object) -> list[tuple[float, float]]:  # noqa: F811
    fixed = ("--data.crops", "middle", "--previews.every_n_steps", 0, "--trainer.max_steps", 4)
    fit(sd3, shards, folder, *fixed, *options)
    return losses(folder)


def test_losses_are_those_of_online_encoding_and_nothing_is_loaded(
    sd3: Path,  # noqa: F811
    shards: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(identity, "WHOLE", 1024)  # as if these networks were large
    said = encode(sd3, shards, tmp_path / "half")
    assert "kB per sample (latents" in said and "of 2 shards are done" in said
    encode(sd3, shards, tmp_path / "whole", "--dtype", "fp32", "--batch-size", 3)
    encode(sd3, shards, tmp_path / "some", "--only", "latents", "t5")
    online = trained(sd3, shards, tmp_path / "online")
    required = ("--data.cache", "require", "--data.cache_folder")

    some = trained(sd3, shards, tmp_path / "some-run", *required, tmp_path / "some")
    np.testing.assert_allclose(some, online, rtol=1e-3)

    load = Frozen.load

    def refuse(self: Frozen) -> None:
        raise AssertionError("a cached encoder was loaded")

    monkeypatch.setattr(Frozen, "load", refuse)
    half = trained(sd3, shards, tmp_path / "half-run", *required, tmp_path / "half")
    whole = trained(sd3, shards, tmp_path / "whole-run", *required, tmp_path / "whole")
    monkeypatch.setattr(Frozen, "load", load)
    np.testing.assert_allclose(half, online, rtol=1e-3)
    # Networks that run on other batches round otherwise; what does not pass through one is equal to the bit.
    np.testing.assert_allclose(whole, online, rtol=1e-5)
    config = ("--config", ROOT / "configs" / "video_d16.yaml", *overrides(sd3, tmp_path / "run"))
    config = (*config, "--data.train_shards", shards, "--data.val_shards", shards / "val")
    done = run("verify", tmp_path / "half", *config)
    assert done.returncode == 0 and "encoded again" in done.stdout, done.stderr

    weights = next((sd3 / "text_encoder").glob("*.safetensors"))
    start, end = largest(weights)
    for place, said_of_it in (
        (start + (end - start) // 4, "clip_l: the weights differ from those that"),  # which only verify looks at
        (start, "text.clip_l.weights"),
    ):
        other = shutil.copytree(sd3, tmp_path / f"other-{place}")
        data = bytearray(weights.read_bytes())
        data[place] ^= 1
        (other / "text_encoder" / weights.name).write_bytes(data)
        config = ("--config", ROOT / "configs" / "video_d16.yaml", *overrides(other, tmp_path / "run"))
        config = (*config, "--data.train_shards", shards, "--data.val_shards", shards / "val")
        done = run("verify", tmp_path / "half", *config)
        assert done.returncode == 1 and said_of_it in done.stderr and "text.t5" not in done.stderr, done.stderr


def largest(weights: Path) -> tuple[int, int]:
    """Where the largest tensor of a .safetensors file begins and ends."""
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    places = [tensor["data_offsets"] for name, tensor in header.items() if name != "__metadata__"]
    start, end = max(places, key=lambda place: place[1] - place[0])
    assert end - start > 4096
    return 8 + length + start, 8 + length + end
