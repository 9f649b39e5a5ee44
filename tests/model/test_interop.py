"""Released layouts: every key and shape, both ways, bit for bit, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmflow.model import archive
from mmflow.model.archive import Archive, Entry, write_file, write_folder
from mmflow.model.design import Design
from mmflow.model.interop import check_tensors, open_released, transformer_config
from mmflow.model.layouts import PREFIX, LayoutName, Shape
from mmflow.model.mmdit import MMDiT
from mmflow.model.publish import published
from mmflow.model.sizes import infer_shape, shape_of
from tests.model.published_keys import RELEASES, mmditx

LAYOUTS: tuple[LayoutName, ...] = ("diffusers", "single-file")


def full_shape(depth: int, table: int, qk_norm: bool, dual: int) -> Shape:
    return Shape(depth, 64 * depth, 16, 16, 2, 4096, 2048, qk_norm, dual, table)


def diffusers_keys(depth: int, table: int, qk_norm: bool, dual: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = SD3Transformer2DModel(
            num_layers=depth,
            num_attention_heads=depth,
            caption_projection_dim=64 * depth,
            pos_embed_max_size=table,
            dual_attention_layers=tuple(range(dual)),
            qk_norm="rms_norm" if qk_norm else None,
        )
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def keys(release: str, layout: LayoutName) -> dict[str, tuple[int, ...]]:
    return diffusers_keys(**RELEASES[release]) if layout == "diffusers" else mmditx(**RELEASES[release])


def headers(shapes: dict[str, tuple[int, ...]]) -> Archive:
    """An archive of which only the headers are looked at."""
    return Archive({name: Entry(Path("x.safetensors"), name, shape, "F16") for name, shape in shapes.items()})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("release", RELEASES)
def test_every_key_and_shape_at_full_depth(release: str, layout: LayoutName) -> None:
    expected = keys(release, layout)
    network = headers(expected)
    shape = infer_shape(network, layout, Path("x"))
    assert shape == full_shape(**RELEASES[release])
    check_tensors(network, shape, layout, Path("x"))
    found = list(expected)
    for place in (0, len(found) // 2, len(found) - 1):
        fewer = headers({n: s for n, s in expected.items() if n != found[place]})
        with pytest.raises(ValueError, match=f"missing: {found[place]}"):
            check_tensors(fewer, infer_shape(network, layout, Path("x")), layout, Path("x"))
    with pytest.raises(ValueError, match=r"unexpected: pos_embed\.scale"):
        check_tensors(headers({**expected, "pos_embed.scale": (1,)}), shape, layout, Path("x"))
    with pytest.raises(ValueError, match=r"of another shape: context_embedder\.bias \(7,\) instead of"):
        check_tensors(headers({**expected, "context_embedder.bias": (7,)}), shape, layout, Path("x"))


def small(release: str, dtype: torch.dtype = torch.float32) -> MMDiT:
    given = RELEASES[release]
    dual = min(given["dual"], 1)
    design = Design(dual, 6)
    model = MMDiT(2, 16, 24, 20, 2, None, 8, qk_norm=given["qk_norm"], design=design)
    g = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=g))
    return model.to(dtype)


def write(
    model: MMDiT, layout: LayoutName, folder: Path, parts: dict[str, Tensor] | None = None, **config: object
) -> Path:
    """A released model on disk, as a publisher would leave it."""
    tensors = published(shape_of(model), layout, model.state_dict())
    if layout == "diffusers":
        write_folder(folder / "transformer", tensors, {})
        (folder / "transformer" / "config.json").write_text(
            json.dumps({**transformer_config(shape_of(model), 16), **config})
        )
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "sd3.safetensors", tensors, {})
    if parts:
        save_file({**load_file(folder / "sd3.safetensors"), **parts}, folder / "sd3.safetensors")
    return folder / "sd3.safetensors"


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].view(-1).view(torch.uint8).equal(b[n].view(-1).view(torch.uint8)) for n in a
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("release", RELEASES)
def test_a_round_trip_keeps_every_bit(release: str, layout: LayoutName, dtype: torch.dtype, tmp_path: Path) -> None:
    model = small(release, dtype)
    path = write(model, layout, tmp_path / "first")
    released = open_released(path)
    assert released is not None and released.layout == layout and released.shape == shape_of(model)
    assert equal(dict(released.weights()), model.state_dict())
    again = published(released.shape, layout, released.weights())
    write_file(tmp_path / "again.safetensors", again, {})
    (first,) = path.rglob("*.safetensors") if path.is_dir() else [path]
    assert equal(load_file(tmp_path / "again.safetensors"), load_file(first))


@pytest.mark.parametrize("release", RELEASES)
def test_diffusers_reads_and_converts_what_we_write(release: str, tmp_path: Path) -> None:
    """Its class loads our folder, and its converter makes the folder's tensors from our single file."""
    model = small(release)
    folder = write(model, "diffusers", tmp_path)
    theirs = SD3Transformer2DModel.from_pretrained(folder / "transformer").state_dict()
    single = load_file(write(model, "single-file", tmp_path))
    assert all(name.startswith(PREFIX) for name in single)
    assert equal(convert_sd3_transformer_checkpoint_to_diffusers(single), theirs)


def test_shards_with_an_index_are_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("SD3.5-medium", torch.bfloat16)
    monkeypatch.setattr(archive, "SHARD_BYTES", 200_000)
    folder = write(model, "diffusers", tmp_path)
    parts = sorted((folder / "transformer").glob("*.safetensors"))
    assert len(parts) > 3 and parts[0].name == f"diffusion_pytorch_model-00001-of-{len(parts):05d}.safetensors"
    released = open_released(folder)
    assert released is not None and equal(dict(released.weights()), model.state_dict())
    theirs = SD3Transformer2DModel.from_pretrained(folder / "transformer").state_dict()
    assert equal(theirs, {name: tensor.float() for name, tensor in released.network.items()})
    parts[1].unlink()
    with pytest.raises(ValueError, match=rf"files that are not there: {parts[1].name}"):
        open_released(folder)


def test_the_frozen_networks_beside_it_are_found(tmp_path: Path) -> None:
    folder = write(small("SD3-medium"), "diffusers", tmp_path / "folder")
    for name in ("vae", "text_encoder", "text_encoder_3"):
        (folder / name).mkdir()
    released = open_released(folder)
    assert released is not None
    assert {n: p.path.name for n, p in released.parts.items()} == {
        "autoencoder": "vae",
        "clip_l": "text_encoder",
        "t5": "text_encoder_3",
    }
    names = ("first_stage_model.decoder.w", "text_encoders.clip_g.transformer.w", "text_encoders.t5xxl.transformer.w")
    single = write(small("SD3-medium"), "single-file", tmp_path, {name: torch.ones(1) for name in names})
    released = open_released(single)
    assert released is not None and set(released.parts) == {"autoencoder", "clip_g", "t5"}
    assert {(p.path, p.prefix) for p in released.parts.values()} == {
        (single, "first_stage_model."),
        (single, "text_encoders.clip_g."),
        (single, "text_encoders.t5xxl."),
    }
    write(small("SD3-medium"), "single-file", tmp_path, {"control_model.w": torch.ones(1)})
    with pytest.raises(ValueError, match=r"unexpected: control_model\.w"):
        open_released(single)


def test_a_single_file_without_its_prefix_is_read(tmp_path: Path) -> None:
    model = small("SD3-medium")
    bare = {n.removeprefix(PREFIX): t for n, t in load_file(write(model, "single-file", tmp_path)).items()}
    save_file(bare, tmp_path / "bare.safetensors")
    released = open_released(tmp_path / "bare.safetensors")
    assert released is not None and equal(dict(released.weights()), model.state_dict())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_layers": 24}, r"num_layers is 24, the tensors say 2"),
        ({"qk_norm": None}, r"qk_norm is None, the tensors say rms_norm"),
        ({"dual_attention_layers": [0, 1]}, r"dual_attention_layers is \[0, 1\], the tensors say \[0\]"),
        ({"_class_name": "FluxTransformer2DModel"}, "is of a FluxTransformer2DModel"),
    ],
)
def test_a_config_that_contradicts_its_tensors(config: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        open_released(write(small("SD3.5-medium"), "diffusers", tmp_path, **config))


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["model.diffusion_model.input_blocks.0.0.weight"], "U-Net of Stable Diffusion"),
        (["down_blocks.0.resnets.0.conv1.weight"], "U-Net of Stable Diffusion"),
        (["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"], "FLUX"),
        (["transformer_blocks.0.w", "single_transformer_blocks.0.w", "time_text_embed.w"], "FLUX"),
        (["adaln_single.linear.weight", "transformer_blocks.0.w"], "PixArt"),
        (["text_model.embeddings.position_embedding.weight"], "CLIP"),
        (["lora_unet_down.weight"], "LoRA"),
    ],
)
def test_another_family_is_named(names: list[str], family: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(1) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=rf"x\.safetensors is .*{family}.*, not an MM-DiT of SD3's family"):
        open_released(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("dtype", "message"),
    [(torch.float8_e4m3fn, "F8_E4M3: fp8 weights cannot be"), (torch.uint8, "U8: quantised weights cannot be")],
)
def test_a_quantised_file_is_named_before_its_extra_tensors(dtype: torch.dtype, message: str, tmp_path: Path) -> None:
    path = write(small("SD3.5-large"), "single-file", tmp_path)
    weight = f"{PREFIX}joint_blocks.0.x_block.attn.qkv.weight"
    tensors = load_file(path)
    scale = {f"{weight.removesuffix('weight')}scale_weight": torch.ones(1)}
    save_file({**tensors, weight: tensors[weight].to(dtype), **scale}, path)
    with pytest.raises(ValueError, match=rf"qkv\.weight is of type {message} trained: fetch the bf16"):
        open_released(path)
    # A text encoder in fp8 beside a network that is not is none of the network's business.
    t5 = {"text_encoders.t5xxl.transformer.w": torch.ones(2).to(dtype)}
    assert open_released(write(small("SD3.5-large"), "single-file", tmp_path, t5)) is not None


def test_an_own_file_is_not_mistaken_for_a_released_one(tmp_path: Path) -> None:
    save_file(small("SD3-medium").state_dict(), tmp_path / "own.safetensors")
    assert open_released(tmp_path / "own.safetensors") is None


def test_depth_and_width_that_contradict_each_other(tmp_path: Path) -> None:
    model = small("SD3-medium")
    tensors = load_file(write(model, "single-file", tmp_path))
    more = {n.replace("joint_blocks.1", "joint_blocks.2"): t.clone() for n, t in tensors.items()}
    save_file({**tensors, **more}, tmp_path / "deeper.safetensors")
    with pytest.raises(ValueError, match=r"deeper\.safetensors: width 128 contradicts depth 3"):
        open_released(tmp_path / "deeper.safetensors")
