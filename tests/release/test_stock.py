"""StableDiffusion3Pipeline makes our picture from what is exported."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from safetensors import safe_open
from torch import Tensor

from mmflow import draws
from mmflow.batch import Known, Request, TextFeatures
from mmflow.encoders.stock import StockCall
from mmflow.flow.objective import FlowObjective
from mmflow.flow.shift import ConstantShift
from mmflow.model.archive import Archive
from mmflow.model.design import Design
from mmflow.model.interop import open_released
from mmflow.model.mmdit import MMDiT
from mmflow.release.card import Facts
from mmflow.release.stock import write_diffusers, write_single_file
from mmflow.release.trained import Trained
from mmflow.train.sampling import Sampling, make
from tests.conftest import random_mmdit

CHANNELS, CONTEXT, POOLED, LENGTH, STRIDE = 4, 32, 24, 9, 2
ABSENT = {f"{part}{suffix}": None for part in ("tokenizer", "text_encoder") for suffix in ("", "_2", "_3")}


@dataclass
class Vae:
    """A tiny random autoencoder of diffusers, as a codec has it."""

    folder: Path
    network: AutoencoderKL


class Text:
    """Features given directly: no tokenizers and encoders, which the stock pipeline then has none of either."""

    layout = "sd3"

    def of(self, caption: str) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(sum(caption.encode()))
        return torch.randn(LENGTH, CONTEXT, generator=g), torch.randn(POOLED, generator=g)


@dataclass
class Codec:
    autoencoder: Vae
    text: Text
    decoded: Tensor | None = None

    def stock_obstacles(self) -> list[str]:
        return []

    def write_stock(self, folder: Path) -> tuple[dict, StockCall]:
        shutil.copytree(self.autoencoder.folder, folder / "vae")
        parts = {name: [None, None] for name in ABSENT}
        return parts | {"vae": ["diffusers", "AutoencoderKL"]}, StockCall(9, True, 9, CONTEXT, POOLED, tuple(ABSENT))

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return CHANNELS, frames, height // STRIDE, width // STRIDE

    def encode_text(self, captions: list[str], device: object = "cpu") -> TextFeatures:
        found = [self.text.of(caption) for caption in captions]
        lengths = torch.full((len(captions), 1), LENGTH)
        return TextFeatures(torch.cat([f[0] for f in found]), lengths, torch.stack([f[1] for f in found]))

    def encode_known(self, pixels: Tensor, unknown: Tensor) -> Known:
        raise NotImplementedError("nothing is given here")

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        config = self.autoencoder.network.config
        raw = latents[:, :, 0] / config.scaling_factor + config.shift_factor
        self.decoded = self.autoencoder.network.decode(raw).sample[:, :, None]
        return self.decoded


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Vae:
    torch.manual_seed(0)
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=8,
        latent_channels=CHANNELS,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    folder = tmp_path_factory.mktemp("vae")
    network.save_pretrained(folder)
    return Vae(folder, network.eval())


def trained(vae: Vae, backbone: MMDiT, sizes: list[tuple[int, int]], shift: float = 3.0) -> Trained:
    codec = Codec(vae, Text())
    objective = FlowObjective(shift=ConstantShift(shift))
    module = SimpleNamespace(backbone=backbone.eval(), objective=objective, sampling=Sampling(7, 4.0))
    data = SimpleNamespace(
        encoders=codec, resolution=32, mix=SimpleNamespace(shapes=lambda: [(1, *size) for size in sizes])
    )
    facts = Facts("tiny", 12, "raw", None, None, str(shift), "sd3", (7, 4.0, "Euler"), (32, 32), ["yes"], [])
    return Trained(module, data, backbone.state_dict(), "", facts)


def network(**design: object) -> MMDiT:
    sizes = {"in_channels": CHANNELS, "context_width": CONTEXT, "pooled_width": POOLED, "video_patch_size": None}
    return random_mmdit(base_size=16, design=Design(**design), **sizes)


def our_picture(run: Trained, size: tuple[int, int], prompt: str) -> Tensor:
    codec, sampling = run.data.encoders, run.module.sampling
    requests = [Request(0, prompt, 5, 1, *size)]
    make(run.module.backbone, run.module.objective, codec, requests, sampling, torch.device("cpu"))
    return (codec.decoded[0, :, 0] / 2 + 0.5).clamp(0, 1)


def their_picture(folder: Path, run: Trained, size: tuple[int, int], prompt: str) -> Tensor:
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, **ABSENT)
    pipe.set_progress_bar_config(disable=True)
    codec, sampling = run.data.encoders, run.module.sampling
    context, pooled = codec.text.of(prompt)
    null_context, null_pooled = codec.text.of("")
    noise = draws.normal(5, "eps", ("prompt", prompt), 0, codec.latent_shape(1, *size))
    return pipe(
        prompt_embeds=context[None],
        pooled_prompt_embeds=pooled[None],
        negative_prompt_embeds=null_context[None],
        negative_pooled_prompt_embeds=null_pooled[None],
        latents=noise[:, 0][None],
        height=size[0],
        width=size[1],
        guidance_scale=sampling.guidance_scale,
        sigmas=[1 - i / sampling.num_steps for i in range(sampling.num_steps)],
        output_type="pt",
    ).images[0]


@pytest.mark.parametrize(
    ("design", "sizes"),
    [
        ({"position_table": 20}, [(32, 48)]),
        ({"position_table": 20, "dual_attention_blocks": 1}, [(20, 36)]),
        ({}, [(32, 48), (48, 32)]),
        ({}, [(20, 36)]),
    ],
    ids=["table, even", "table, odd", "formula, even", "formula, odd"],
)
def test_the_stock_pipeline_makes_our_picture(design: dict, sizes: list, vae: Vae, tmp_path: Path) -> None:
    run = trained(vae, network(**design), sizes)
    said = write_diffusers(run, tmp_path / "out", None)
    ours, theirs = (
        our_picture(run, sizes[0], "a red circle"),
        their_picture(tmp_path / "out", run, sizes[0], "a red circle"),
    )
    assert ours.shape == (3, *sizes[0]) and ours.std() > 0.05
    assert (ours - our_picture(run, sizes[0], "two stars")).abs().max() > 0.05
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
    assert "Positions" not in " ".join(said)


def test_sizes_that_no_one_table_can_serve_are_said(vae: Vae, tmp_path: Path) -> None:
    run = trained(vae, network(), [(32, 32), (36, 36)])
    said = write_diffusers(run, tmp_path / "out", None)
    assert "Positions: " in said[-1] and "design.position_table" in said[-1]
    assert said[-1] in (tmp_path / "out" / "README.md").read_text()


def test_the_folder_is_whole_and_says_what_it_is(vae: Vae, tmp_path: Path) -> None:
    run = trained(vae, network(), [(32, 32)])
    write_diffusers(run, tmp_path / "out", torch.float16)
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["vae"] == ["diffusers", "AutoencoderKL"] and index["text_encoder_3"] == [None, None]
    scheduler = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["shift"] == 3.0
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("| timestep shift | 3.0 |", "| text layout | sd3 |", "12 optimizer steps", "not stated"):
        assert words in card
    (weights,) = (tmp_path / "out" / "transformer").glob("*.safetensors")
    with safe_open(weights, "np") as opened:
        header = opened.metadata()
    assert header["modelspec.sai_model_spec"] == "1.0.0" and header["modelspec.implementation"] == "diffusers"
    assert {t.dtype for t in Archive.of([weights]).meta().values()} == {torch.float16}
    with pytest.raises(ValueError, match="is not empty"):
        write_diffusers(run, tmp_path / "out", None)


def test_base_and_licence_stand_where_people_and_programs_look(vae: Vae, tmp_path: Path) -> None:
    run = trained(vae, network(), [(32, 32)])
    base = "stabilityai/stable-diffusion-3-medium-diffusers"
    run = replace(run, facts=replace(run.facts, base=base, licence="mit"))
    write_diffusers(run, tmp_path / "out", None)
    front, table = (tmp_path / "out" / "README.md").read_text().split("---\n")[1:3]
    assert "license: mit\n" in front and f"base_model: {base}\n" in front
    assert f"| base | {base} |" in table and "| licence of these weights | mit |" in table
    assert "it goes on to apply to what was made from them" in table
    (weights,) = (tmp_path / "out" / "transformer").glob("*.safetensors")
    with safe_open(weights, "np") as opened:
        header = opened.metadata()
    assert header["modelspec.license"] == "mit" and f"from {base}" in header["modelspec.description"]
    # A path of this machine is no base that others could fetch.
    run = replace(run, facts=replace(run.facts, base=str(tmp_path / "first")))
    write_diffusers(run, tmp_path / "again", None)
    assert "base_model" not in (tmp_path / "again" / "README.md").read_text()


def test_a_single_file_holds_the_same_numbers(vae: Vae, tmp_path: Path) -> None:
    run = trained(vae, network(position_table=20), [(32, 32)])
    write_single_file(run, tmp_path / "x.safetensors", None)
    released = open_released(tmp_path / "x.safetensors")
    assert released is not None and released.layout == "single-file"
    weights = dict(released.weights())
    assert weights.keys() == run.weights.keys() and all(torch.equal(weights[n], t) for n, t in run.weights.items())
    with pytest.raises(ValueError, match=r"name it OUT\.safetensors"):
        write_single_file(run, tmp_path / "folder", None)


def test_a_shift_of_one_is_another_picture(vae: Vae, tmp_path: Path) -> None:
    """The scheduler's shift is the run's and matters."""
    network_, size = network(), (32, 32)
    pictures = [our_picture(trained(vae, network_, [size], shift), size, "a") for shift in (1.0, 3.0)]
    assert np.abs(np.asarray(pictures[0] - pictures[1])).max() > 1e-3
