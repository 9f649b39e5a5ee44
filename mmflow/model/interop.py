"""Released models on disk, and ours beside them: safetensors and JSON, read and written here.

A model is known by its tensors. A folder's config.json is checked against them and never believed instead of them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from mmflow.model.archive import Archive, files_of
from mmflow.model.heads import HEAD_WIDTH
from mmflow.model.layouts import PREFIX, LayoutName, Rule, Shape, rules
from mmflow.model.sizes import infer_shape, published_shapes

CLASS_NAME = "SD3Transformer2DModel"
SHOWN = 8
"""Names that an error lists of each kind."""
FAMILIES = {
    "input_blocks.": "a U-Net of Stable Diffusion 1, 2 or XL",
    "down_blocks.": "a U-Net of Stable Diffusion 1, 2 or XL",
    "double_blocks.": "FLUX",
    "single_transformer_blocks.": "FLUX",
    "adaln_single.": "PixArt",
    "encoder.down.": "an autoencoder",
    "first_stage_model.": "an autoencoder",
    "text_model.": "a CLIP text encoder",
    "encoder.block.": "a T5 text encoder",
    "lora_": "a LoRA, which is a change to a model and no model",
}
"""What files of other kinds begin with."""
FOLDERS = {
    "autoencoder": "vae",
    "clip_l": "text_encoder",
    "clip_g": "text_encoder_2",
    "t5": "text_encoder_3",
}
"""The frozen networks of a diffusers folder, beside `transformer/`."""
PREFIXES = {
    "autoencoder": "first_stage_model.",
    "clip_l": "text_encoders.clip_l.",
    "clip_g": "text_encoders.clip_g.",
    "t5": "text_encoders.t5xxl.",
}
"""The frozen networks of a single file."""


@dataclass(frozen=True)
class Part:
    """Where a frozen network lies: a folder, or the tensors of a file whose names begin so."""

    path: Path
    prefix: str = ""


@final
@dataclass(frozen=True)
class Released:
    """An MM-DiT found in a published layout, with what stands beside it.

    Attributes:
        shape: read off the tensors.
        layout: how they are named.
        network: its tensors, under the layout's names without a prefix.
        parts: the autoencoder and text encoders of the same folder or file.
    """

    shape: Shape
    layout: LayoutName
    network: Archive
    parts: Mapping[str, Part]

    def weights(self) -> "Renamed":
        """The network under our names."""
        return Renamed(rules(self.shape, self.layout), self.network)


@final
class Renamed(Mapping[str, Tensor]):
    """Published tensors under our names, made one at a time and in the file's own dtype."""

    def __init__(self, table: list[Rule], network: Archive) -> None:
        self.rules, self.network = {rule.ours: rule for rule in table}, network

    def __getitem__(self, name: str) -> Tensor:
        rule = self.rules[name]
        return rule.to_ours([self.network[theirs] for theirs in rule.theirs])

    def __iter__(self) -> Iterator[str]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def meta(self) -> dict[str, Tensor]:
        """The same without memory."""
        shapes = self.network.meta()
        return {ours: rule.to_ours([shapes[name] for name in rule.theirs]) for ours, rule in self.rules.items()}


def without_memory(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same names and shapes on the meta device."""
    if hasattr(weights, "meta"):  # read from a file one at a time: their shapes are known without
        bare: Mapping[str, Tensor] = weights.meta()
        return bare
    return {name: torch.empty_like(value, device="meta") for name, value in weights.items()}


def open_released(path: Path) -> Released | None:
    """The released model at `path`: a diffusers folder, its `transformer/`, or a single file.

    None if its names are not a published layout's, as those of our own files are.


    Raises:
        ValueError: if it is of another kind or family, or tensors are missing, unexpected or of another shape.
    """
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    if not path.is_dir():
        everything = Archive.of([path])
        prefixed = any(name.startswith(PREFIX) for name in everything)
        network = everything.under(PREFIX) if prefixed else everything
        parts = {
            n: Part(path, prefix) for n, prefix in PREFIXES.items() if any(k.startswith(prefix) for k in everything)
        }
        if prefixed:
            known = (PREFIX, *PREFIXES.values())
            strange = sorted(n for n in everything if not n.startswith(known))
            _refuse(f"{path}", [], strange, [])
    else:
        network = Archive.of(files_of(folder))
        parts = {n: Part(path / name) for n, name in FOLDERS.items() if (path / name).is_dir()}
    layout = _layout(network, path)
    if layout is None:
        return None
    for entry in network.found.values():
        entry.check()  # before the names, to which quantised files add some of their own
    shape = infer_shape(network, layout, path)
    check_tensors(network, shape, layout, path)
    if path.is_dir() and (folder / "config.json").is_file():
        _check_config(json.loads((folder / "config.json").read_text()), shape, folder / "config.json")
    return Released(shape, layout, network, parts)


def _layout(network: Archive, path: Path) -> LayoutName | None:
    """How the tensors are named; None if in no way that is known to be another's, so perhaps in ours."""

    def has(*starts: str) -> bool:
        return all(any(name.startswith(start) for name in network) for start in starts)

    if has("joint_blocks.", "x_embedder."):
        return "single-file"
    if has("transformer_blocks.", "time_text_embed.") and not has("single_transformer_blocks."):
        return "diffusers"
    for start, family in FAMILIES.items():
        if has(start):
            raise ValueError(f"{path} is {family}, not an MM-DiT of SD3's family")
    return None


def check_tensors(network: Archive, shape: Shape, layout: LayoutName, path: Path) -> None:
    """Whether a model of that shape is there, whole and alone.

    Raises:
        ValueError: naming the missing, unexpected and misshapen tensors.
    """
    try:
        expected = published_shapes(shape, layout)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    found = {name: entry.shape for name, entry in network.found.items()}
    wrong = [f"{n} {found[n]} instead of {expected[n]}" for n in expected if n in found and found[n] != expected[n]]
    _refuse(str(path), sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys()), wrong)


def _refuse(where: str, missing: list[str], extra: list[str], wrong: list[str]) -> None:
    lines = [f"{where} is no whole MM-DiT in a published layout:"]
    for title, names in (("missing", missing), ("unexpected", extra), ("of another shape", wrong)):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"  {title}: {', '.join(names[:SHOWN])}{more}")
    if len(lines) > 1:
        raise ValueError("\n".join(lines))


def transformer_config(shape: Shape, sample_size: int) -> dict[str, Any]:
    """config.json of the diffusers class.

    Args:
        shape: of the model.
        sample_size: latent height and width that the pipeline makes where nothing else is asked for.
    """
    return {
        "_class_name": CLASS_NAME,
        "sample_size": sample_size,
        "patch_size": shape.patch_size,
        "in_channels": shape.in_channels,
        "num_layers": shape.depth,
        "attention_head_dim": HEAD_WIDTH,
        "num_attention_heads": shape.width // HEAD_WIDTH,
        "joint_attention_dim": shape.context_width,
        "caption_projection_dim": shape.width,
        "pooled_projection_dim": shape.pooled_width,
        "out_channels": shape.out_channels,
        "pos_embed_max_size": shape.table,
        "dual_attention_layers": list(range(shape.dual_blocks)),
        "qk_norm": "rms_norm" if shape.qk_norm else None,
    }


def _check_config(config: dict[str, Any], shape: Shape, path: Path) -> None:
    if config.get("_class_name", CLASS_NAME) != CLASS_NAME:
        raise ValueError(f"{path} is of a {config['_class_name']}, not of a {CLASS_NAME}")
    stated = {"qk_norm": None, "dual_attention_layers": [], **config}
    expected = transformer_config(shape, 0)
    ignored = {"sample_size", "_class_name"}
    wrong = [
        f"{name} is {stated[name]}, the tensors say {value}"
        for name, value in expected.items()
        if name not in ignored and name in stated and stated[name] != value
    ]
    if wrong:
        raise ValueError(f"{path} contradicts the tensors beside it:\n  " + "\n  ".join(wrong))
