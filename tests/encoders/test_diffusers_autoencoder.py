"""Released autoencoders: the library's own latents, frame by frame or whole clips; what does not fit is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmflow.encoders.autoencoder import draw
from mmflow.encoders.diffusers_autoencoder import DiffusersAutoencoder
from tests.encoders.published import picture_autoencoder


def wan() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def ltx(**options: Any) -> Any:
    from diffusers import AutoencoderKLLTXVideo

    widths, blocks = (8, 8, 8, 8), (1, 1, 1, 1, 1)
    network = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=widths,
        decoder_block_out_channels=widths,
        layers_per_block=blocks,
        decoder_layers_per_block=blocks,
        **options,
    )
    network.latents_mean += 0.5
    network.latents_std *= 2
    return network


def noisy_ltx() -> Any:
    return ltx(timestep_conditioning=True, decoder_inject_noise=(True,) * 5)


def cogvideox() -> Any:
    from diffusers import AutoencoderKLCogVideoX

    return AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=32,
        sample_width=32,
    )


VIDEO: dict[str, tuple[Callable[[], Any], int, tuple[int, int, int], int]] = {
    "wan": (wan, 16, (4, 8, 8), 4),
    "ltx": (ltx, 8, (8, 32, 32), 8),
    "noisy_ltx": (noisy_ltx, 8, (8, 32, 32), 8),
    "cogvideox": (cogvideox, 4, (4, 8, 8), 8),
}


def pixels(num: int, frames: int, height: int, width: int) -> Tensor:
    g = torch.Generator().manual_seed(frames)
    return torch.rand(num, 3, frames, height, width, generator=g) * 2 - 1


@pytest.fixture(scope="module")
def vae(sd3: Path) -> DiffusersAutoencoder:
    return DiffusersAutoencoder(str(sd3), subfolder="vae", max_frames=3)


def test_pictures_and_the_frames_of_clips_are_the_library_s_own(sd3: Path, vae: DiffusersAutoencoder) -> None:
    from diffusers import AutoencoderKL

    network = AutoencoderKL.from_pretrained(sd3 / "vae", low_cpu_mem_usage=False)
    assert (vae.channels, vae.stride, vae.frame_step) == (16, (1, 8, 8), 1)
    clip = pixels(2, 4, 32, 48)
    latents = vae.encode(clip)
    assert latents.shape[1:] == (16, *vae.latent_shape(4, 32, 48)) == (16, 4, 4, 6)
    with torch.no_grad():
        for frame in range(4):
            mean = network.encode(clip[:, :, frame]).latent_dist.mean
            assert torch.allclose(latents[:, :, frame], (mean - 0.0609) * 1.5305, atol=1e-5)
        expected = network.decode(latents[:, :, 1] / 1.5305 + 0.0609).sample
    assert torch.allclose(vae.decode(latents)[:, :, 1], expected, atol=1e-5)
    assert torch.equal(vae.encode(clip), latents), "encoding draws nothing"
    assert not latents.requires_grad


def test_chunks_batches_and_pictures_are_alike(sd3: Path, vae: DiffusersAutoencoder) -> None:
    clip = pixels(2, 5, 16, 16)
    whole = DiffusersAutoencoder(str(sd3), subfolder="vae", max_frames=100).encode(clip)
    assert torch.allclose(vae.encode(clip), whole, atol=1e-5)
    assert torch.allclose(vae.encode(clip[1:, :, 2:3]), whole[1:, :, 2:3], atol=1e-5)
    assert vae.encode(clip[:0]).shape == (0, 16, 5, 2, 2), "a rank may have nothing to read"


@pytest.mark.parametrize("name", VIDEO)
def test_video_autoencoders(name: str, tmp_path: Path) -> None:
    make, channels, stride, step = VIDEO[name]
    torch.manual_seed(0)
    network = make().eval()
    network.save_pretrained(tmp_path)
    ours = DiffusersAutoencoder(str(tmp_path), max_frames=step + 2)
    assert (ours.channels, ours.stride, ours.frame_step) == (channels, stride, step)
    size = 2 * stride[1], stride[2]
    for frames in (1, 1 + step):
        clip = pixels(2, frames, *size)
        latents = ours.encode(clip)
        assert latents.shape[1:] == (channels, *ours.latent_shape(frames, *size))
        assert ours.decode(latents).shape == clip.shape
        assert torch.allclose(ours.encode(clip[1:]), latents[1:], atol=1e-4)
    assert torch.equal(ours.decode(latents), ours.decode(latents)), "decoding draws nothing that has no name"
    assert torch.allclose(ours.decode(latents[1:]), ours.decode(latents)[1:], atol=1e-4)
    with torch.no_grad():
        raw = network.encode(clip).latent_dist.mean
    if name.startswith("wan"):
        mean, std = (torch.tensor(network.config[key]).view(-1, 1, 1, 1) for key in ("latents_mean", "latents_std"))
        assert torch.allclose(latents, (raw - mean) / std, atol=1e-4)
    elif "ltx" in name:
        assert torch.allclose(latents, (raw - 0.5) / 2, atol=1e-4)
    else:
        assert torch.allclose(latents, raw * 1.15258426, atol=1e-4)
    nearest = rf"1 \+ k \* {step} frames: not {step}, but 1 or {1 + step}"
    with pytest.raises(ValueError, match=nearest):
        ours.latent_shape(step, *size)


def test_latents_may_be_drawn_from_the_posterior(sd3: Path) -> None:
    clip, noise = pixels(2, 3, 16, 24), torch.randn(2, 16, 3, 2, 3)
    mean, drawn = (DiffusersAutoencoder(str(sd3), "vae", posterior=kind) for kind in ("mean", "sample"))
    network = drawn.loaded()[0]
    with torch.no_grad():
        kept = drawn.encode_kept(clip)
        (first, *_) = network.encode(clip[1:, :, 2]).latent_dist.sample(torch.Generator().manual_seed(0))
        its_noise = torch.randn(1, *first.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mean.encode_kept(clip), kept[:, :16]) and kept.shape == (2, 32, 3, 2, 3)
    noise[1, :, 2] = its_noise[0]
    assert torch.allclose(draw(kept, noise)[1, :, 2], first, atol=1e-4), "diffusers draws the same"
    assert (mean.is_drawn, drawn.is_drawn) == (False, True)
    assert [a.identity()["posterior"] for a in (mean, drawn)] == ["mean", "mean and log-variance"]
    assert drawn.encode_kept(clip[:0]).shape == (0, 32, 3, 2, 3)


def test_what_is_declared_needs_no_file_and_must_be_true(sd3: Path) -> None:
    remote = DiffusersAutoencoder("owner/never-downloaded", channels=16, stride=(1, 8, 8))
    assert remote.latent_shape(3, 64, 32) == (3, 8, 4)
    for options, words in (
        ({"channels": 4}, ["channels 16", "says 4", "--data.autoencoder.channels 16"]),
        ({"channels": 16, "stride": (1, 16, 16)}, ["stride (1, 8, 8)", "says (1, 16, 16)"]),
    ):
        with pytest.raises(ValueError) as error:
            DiffusersAutoencoder(str(sd3), "vae", **options)  # type: ignore[arg-type]
        assert all(word in str(error.value) for word in words), error.value


def test_measured_statistics_take_the_place_of_the_config_s(sd3: Path, tmp_path: Path) -> None:
    file = tmp_path / "statistics.json"
    clip = pixels(1, 1, 16, 16)
    own = DiffusersAutoencoder(str(sd3), "vae")
    raw, there_and_back = own.encode_raw(clip), own.decode(own.encode(clip))
    for shift, scale in ((0.25, 2.0), ([0.1 * c for c in range(16)], [1.0 + c for c in range(16)])):
        file.write_text(json.dumps({"shift": shift, "scale": scale}))
        ours = DiffusersAutoencoder(str(sd3), "vae", statistics=str(file))
        view = [torch.as_tensor(x).reshape(-1, 1, 1, 1) for x in (shift, scale)]
        assert torch.allclose(ours.encode(clip), (raw - view[0]) * view[1], atol=1e-5)
        assert torch.allclose(ours.decode(ours.encode(clip)), there_and_back, atol=1e-4)
    file.write_text(json.dumps({"shift": 0, "scale": [1, 2]}))
    with pytest.raises(ValueError, match='"scale" has 2 numbers, the autoencoder has 16 channels'):
        DiffusersAutoencoder(str(sd3), "vae", statistics=str(file)).load()


def ldm_layout(tensors: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """Stable Diffusion's names for an AutoencoderKL's tensors; attention as convolutions of one pixel."""
    renamed = {}
    for name, tensor in tensors.items():
        new = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        new = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            for old, short in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
                new = new.replace(old, short)
            tensor = tensor[:, :, None, None] if tensor.dim() == 2 else tensor
        renamed[new] = tensor.contiguous()
    return renamed


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder of 32 channels: the number of groups is not in the tensors, and is 32 in every published file."""
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    AutoencoderKL(block_out_channels=[32, 64], layers_per_block=2, latent_channels=8, **blocks).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_single_file_of_stable_diffusion_s_layout(wide: Path, tmp_path: Path, prefix: str) -> None:
    tensors = ldm_layout(load_file(wide / "diffusion_pytorch_model.safetensors"), 2)
    renamed = {prefix + name: tensor for name, tensor in tensors.items()}
    save_file({**renamed, "model.diffusion_model.x": torch.zeros(1)}, tmp_path / "whole.safetensors")
    path, statistics = str(tmp_path / "whole.safetensors"), tmp_path / "statistics.json"
    alone = DiffusersAutoencoder(path)
    assert (alone.channels, alone.stride) == (8, (1, 2, 2))
    with pytest.raises(ValueError, match=r"says nothing of shift and scale.*0\.0609.*latent-stats"):
        alone.load()
    statistics.write_text('{"shift": 0, "scale": 0.18215}')
    clip = pixels(2, 2, 8, 8)
    same = DiffusersAutoencoder(str(wide)).encode(clip)
    assert torch.allclose(DiffusersAutoencoder(path, statistics=str(statistics)).encode(clip), same, atol=1e-5)
    renamed.pop(f"{prefix}decoder.conv_out.bias")
    save_file(renamed, tmp_path / "whole.safetensors")
    with pytest.raises(ValueError, match=r"holds \d+ of the \d+ tensors"):
        DiffusersAutoencoder(path, statistics=str(statistics)).load()


def test_a_single_file_with_its_config_beside(wide: Path) -> None:
    ours = DiffusersAutoencoder(str(wide / "diffusion_pytorch_model.safetensors"))
    clip = pixels(1, 1, 8, 8)
    assert torch.allclose(ours.encode(clip), DiffusersAutoencoder(str(wide)).encode(clip), atol=1e-6)


def test_files_that_are_something_else(tmp_path: Path, sd3: Path) -> None:
    pickle, other, broken = tmp_path / "vae.ckpt", tmp_path / "other.safetensors", tmp_path / "broken.safetensors"
    pickle.write_bytes(b"\x80\x04")
    save_file({"lora.up": torch.zeros(1)}, other)
    broken.write_bytes(other.read_bytes()[:20])
    for path, words in (
        (pickle, ["vae.ckpt", ".safetensors only"]),
        (other, ["other.safetensors", "no autoencoder"]),
        (broken, ["broken.safetensors", "not a whole safetensors file"]),
        (sd3 / "text_encoder", ["CLIPTextModelWithProjection", "AutoencoderKLWan"]),
        (sd3, ["holds no config.json", "subfolder", "vae"]),
        (sd3 / "nowhere", ["nowhere", "no such file or folder"]),
    ):
        with pytest.raises(ValueError) as error:
            DiffusersAutoencoder(str(path))
        assert all(word in str(error.value) for word in words), error.value


def test_weights_with_holes_are_not_filled_with_random_numbers(tmp_path: Path) -> None:
    picture_autoencoder(tmp_path, levels=2)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("decoder.conv_in.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"its weights lack decoder\.conv_in\.weight"):
        DiffusersAutoencoder(str(tmp_path)).load()
