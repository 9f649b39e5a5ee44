"""An autoencoder in one .safetensors file: alone, or inside a whole checkpoint as SD's and SD3's are published."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mmflow.encoders.hub import explained, quiet
from mmflow.encoders.latent_spec import LatentSpec

PREFIXES = ("first_stage_model.", "vae.", "")
PART = re.compile(r"(first_stage_model\.|vae\.)?(encoder|decoder|quant_conv|post_quant_conv|latents_(mean|std))\b")


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a file, from its header.

    Raises:
        ValueError: if it is no safetensors file.
    """
    if file.suffix != ".safetensors":
        raise ValueError(f"{file}: single files are read as .safetensors only, since a pickle is a program")
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file}: not a whole safetensors file ({error})") from error


def file_config(file: Path) -> dict[str, Any]:
    """The config.json of the autoencoder in a file: the one beside it, or one read off the shapes of its tensors.

    Raises:
        ValueError: if the file holds no autoencoder of a known layout.
    """
    beside = file.parent / "config.json"
    if beside.is_file():
        content: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
        return content
    shapes = tensor_shapes(file)
    for prefix in PREFIXES:
        own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        if "encoder.down.0.block.0.conv1.weight" in own and "decoder.conv_in.weight" in own:
            return _ldm_config(own)
    raise ValueError(
        f"{file}: no autoencoder in the layout of Stable Diffusion's checkpoints; a file in diffusers' layout needs "
        "its config.json beside it"
    )


def _ldm_config(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    levels = 1 + max(int(m[1]) for name in shapes if (m := re.match(r"encoder\.down\.(\d+)\.block", name)))
    blocks = 1 + max(int(m[1]) for name in shapes if (m := re.match(r"encoder\.down\.0\.block\.(\d+)", name)))
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": blocks,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def load_file(file: Path, spec: LatentSpec, dtype: torch.dtype) -> Any:
    """The network in a file.

    Raises:
        ValueError: if tensors are missing or the file is damaged.
    """
    import diffusers

    with quiet(diffusers), explained(str(file)), tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(file_config(file)))
        family: Any = getattr(diffusers, spec.family)
        network = family.from_single_file(str(file), config=folder, torch_dtype=dtype, low_cpu_mem_usage=False)
    # The library takes a file that lacks tensors and leaves random numbers in their place.
    held = sum(bool(PART.match(name)) for name in tensor_shapes(file))
    if held < len(network.state_dict()):
        raise ValueError(f"{file}: holds {held} of the {len(network.state_dict())} tensors of its autoencoder")
    return network
