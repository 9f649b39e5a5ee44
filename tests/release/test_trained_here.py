"""A model trained here on the released frozen networks (tiny and random): the stock pipeline makes its pictures."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from mmflow import Pipeline, draws
from mmflow.__main__ import main as mmflow
from mmflow.batch import Request
from mmflow.release.stock import write_diffusers
from mmflow.release.trained import open_run
from mmflow.train.sampling import make
from tests.encoders.published import CLIP_G, CLIP_L, T5, sd3_folder
from tests.test_cli import TINY

SIZE, PROMPT, STEPS, SCALE = (64, 96), "a red circle left of a blue square", 5, 3.0


def text(sd3: Path, empty_caption: str) -> dict[str, Any]:
    def part(kind: str, suffix: str, **options: object) -> dict[str, Any]:
        folders = {"subfolder": f"text_encoder{suffix}", "tokenizer_subfolder": f"tokenizer{suffix}"}
        return {
            "class_path": f"mmflow.encoders.pretrained_text.{kind}",
            "init_args": {"path": str(sd3), **folders, **options},
        }

    return {
        "class_path": "mmflow.encoders.joint_text.JointTextEncoder",
        "init_args": {
            "clip_l": part("ClipEncoder", "", pooled="unprojected"),
            "clip_g": part("ClipEncoder", "_2", pad_id=0),
            "t5": part("T5Encoder", "_3", max_length=20, dtype="fp32"),
            "layout": "sd3",
            "empty_caption": empty_caption,
        },
    }


def config(sd3: Path, empty_caption: str, grid: str) -> dict[str, Any]:
    given = yaml.safe_load(Path(TINY).read_text())
    given["model"]["backbone"]["init_args"] |= {
        "in_channels": 16,
        "context_width": T5,
        "pooled_width": CLIP_L + CLIP_G,
        "patch_size": 2,
        "video_patch_size": None,
        "base_size": 8,
        "depth": 2,
    }
    given["model"]["optimizer"] = {"class_path": "AdamW", "init_args": {"lr": 1e-2}}
    given["model"]["objective"] = {"shift": {"class_path": "ConstantShift", "init_args": {"value": 3.0}}}
    given["model"]["sampling"] = {"num_steps": STEPS, "guidance_scale": SCALE, "grid": f"mmflow.flow.grid.{grid}"}
    given["data"] |= {
        "clip_share": 0.0,
        "autoencoder": {
            "class_path": "mmflow.encoders.diffusers_autoencoder.DiffusersAutoencoder",
            "init_args": {"path": str(sd3), "subfolder": "vae"},
        },
        "text_encoder": text(sd3, empty_caption),
    }
    given["data"]["world"] |= {"size": 64}
    given["data"]["val_samples"] = 0
    return given


class Kept:
    """Keeps what is decoded, before it is rounded to 8 bits."""

    def __init__(self, codec: Any) -> None:
        self.codec, self.decoded = codec, torch.zeros(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.codec, name)

    def latent_shape(self, *args: int) -> tuple[int, int, int, int]:
        return self.codec.latent_shape(*args)

    def encode_text(self, *args: Any) -> Any:
        return self.codec.encode_text(*args)

    def encode_known(self, *args: Any) -> Any:
        return self.codec.encode_known(*args)

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded = self.codec.decode(latents)
        return self.decoded


def our_picture(run: Path) -> Tensor:
    pipeline = Pipeline.load(run)
    codec = Kept(pipeline.codec)
    request = Request(0, PROMPT, 5, 1, *SIZE)
    make(pipeline.backbone, pipeline.objective, codec, [request], pipeline.sampling, torch.device("cpu"))
    return (codec.decoded[0, :, 0] / 2 + 0.5).clamp(0, 1)


def their_picture(folder: Path) -> Tensor:
    """By the code that the card gives, on a CPU in fp32."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("\n```")[0]
    code = code.rsplit("\n", 1)[0].replace("torch.bfloat16", "torch.float32").replace('"cuda"', '"cpu"')
    code = code.replace(f'from_pretrained("{folder.name}"', f'from_pretrained("{folder}"')
    names: dict[str, Any] = {}
    exec(code, names)
    assert isinstance(names["pipe"], StableDiffusion3Pipeline)
    names["pipe"].set_progress_bar_config(disable=True)
    noise = draws.normal(5, "eps", ("prompt", PROMPT), 0, (16, 1, SIZE[0] // 8, SIZE[1] // 8))[:, 0][None]
    given = {"latents": noise, "height": SIZE[0], "width": SIZE[1], "output_type": "pt"}
    return names["pipe"](PROMPT, **names["settings"], **given).images[0]


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sd3_folder(tmp_path_factory.mktemp("sd3"))


@pytest.mark.parametrize(("empty_caption", "grid"), [("null", "Even"), ("encoded", "ReleasedSd3")])
def test_the_stock_pipeline_makes_the_picture_of_a_model_trained_here(
    empty_caption: str, grid: str, frozen: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config(frozen, empty_caption, grid)))
    run = tmp_path / "run"
    mmflow(["fit", "--config", str(tmp_path / "c.yaml"), "--trainer.default_root_dir", str(run)])
    assert "loads in StableDiffusion3Pipeline and ComfyUI: yes" in capfd.readouterr().out
    said = write_diffusers(open_run(run), tmp_path / "out", None)
    assert said[1] == "loads in StableDiffusion3Pipeline and ComfyUI: yes"
    ours, theirs = our_picture(run), their_picture(tmp_path / "out")
    assert ours.shape == (3, *SIZE) and ours.std() > 0.02
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
