"""Published weight layouts, key by key, and tiny networks in the same layouts."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from tests.encoders.published import clip_tokenizer, cut_merges

Layout = dict[str, tuple[int, ...]]


def published(name: str) -> Layout:
    """The fixture `layouts/NAME.txt`."""
    layout: Layout = {}
    for line in (Path(__file__).parent / "layouts" / f"{name}.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        words = line.split()
        is_conv = words[0] == "conv"
        pattern, *sides = words[is_conv:]
        shape = tuple(map(int, sides))
        for key in expanded(pattern):
            if is_conv:
                vectors = ("weight", "bias", "running_mean", "running_var")
                layout |= {f"{key}.conv.weight": shape, **{f"{key}.bn.{each}": shape[:1] for each in vectors}}
            else:
                assert key not in layout, key
                layout[key] = shape
    return layout


def expanded(pattern: str) -> Iterator[str]:
    """Every name that a pattern with {a,b} and {0..3} stands for."""
    parts = re.split(r"\{(.*?)\}", pattern)
    choices = []
    for place, part in enumerate(parts):
        if place % 2 == 0:
            choices.append([part])
        elif ".." in part:
            first, last = part.split("..")
            choices.append([str(n) for n in range(int(first), int(last) + 1)])
        else:
            choices.append(part.split(","))
    return map("".join, product(*choices))


def without_memory(layout: Layout) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in layout.items()}


def drawn(layout: Layout, seed: int = 0, scale: float = 0.3) -> dict[str, Tensor]:
    """Random weights of a layout; variances are positive."""
    g = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in layout.items():
        fan = max(1, torch.Size(shape[1:]).numel()) if len(shape) > 1 else 1
        weights[name] = scale * torch.randn(shape, generator=g) * (3 / fan**0.5)
        if name.endswith("running_var"):
            weights[name] = weights[name].abs() + 0.5
    return weights


def tiny_clip(folder: Path, size: int = 24, seed: int = 0) -> Path:
    """A random CLIP as `save_pretrained` leaves one, with tokenizer and picture settings."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    width = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    merges = 2000
    text = {**width, "vocab_size": 514 + merges, "bos_token_id": 512 + merges, "eos_token_id": 513 + merges}
    config = CLIPConfig(
        text_config={**text, "projection_dim": 16},
        vision_config={**width, "image_size": size, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    model = CLIPModel(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    clip_tokenizer(folder, cut_merges())
    return folder
