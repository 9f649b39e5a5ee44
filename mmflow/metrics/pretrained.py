"""Published weights by path: whether they are there, what they hold, and whether it is what it should be.

Nothing is unpickled: .safetensors, or a publisher's .pt read as tensors only.
"""

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mmflow.encoders.hub import local, read_config

FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
SHOWN = 6
BUFFERS = ("position_ids", "num_batches_tracked", "attn_mask")
"""What older versions of the libraries stored beside the weights and newer ones make anew: may be there or not."""


def absent(*paths: str) -> str | None:
    """Why weights cannot be had, in one line; None if all are there."""
    for path in paths:
        place = Path(path).expanduser()
        if place.exists():
            continue
        if place.suffix in FILES:
            return f"{path} is not there"
        try:
            if local(path) is None:
                read_config(path)
        except ValueError as error:
            return str(error).split("\n")[0]
    return None


@cache
def digest(path: str) -> str:
    """First 16 digits of the SHA-256 of a file, or of all weights and configurations of a folder; a repository's id."""
    place = Path(path).expanduser()
    if not place.exists():
        return path
    files = [place] if place.is_file() else sorted(f for f in place.iterdir() if f.suffix in (".safetensors", ".json"))
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


def read_weights(path: str) -> dict[str, Tensor]:
    """The tensors of a file by name, out of the `state_dict` that some publishers wrap them in.

    Raises:
        ValueError: if there is no such file, or it holds what only a pickle could make.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        raise ValueError(f"{path}: no such file of weights")
    if place.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(place)
    try:
        # files from before PyTorch 1.6 are no archive, and cannot be mapped
        content = torch.load(place, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(place))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path}: not a file of tensors: it is cut short, or a pickle with objects in it, which mmflow never runs. "
            "Convert it where you trust it: " + conversion(path, str(place.with_suffix(".safetensors")), trusted=True)
        ) from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{path}: expected tensors by name, or `state_dict` with them")
    return weights


def conversion(pickled: str, safe: str, trusted: bool = False) -> str:
    """The command that makes a file of tensors of a pickle; `trusted` runs what is in it."""
    return (
        f"python -c \"import torch, safetensors.torch as s; w = torch.load('{pickled}', weights_only={not trusted}); "
        f"s.save_file({{k: v.contiguous() for k, v in w.get('state_dict', w).items()}}, '{safe}', "
        "{'format': 'pt'})\""
    )


def check_layout(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Compares names and shapes with a publisher's.

    Raises:
        ValueError: naming what is missing, extra or of another shape.
    """
    names = {name for name in found if name.rsplit(".", 1)[-1] not in BUFFERS}
    wrong = {
        "missing": sorted(expected.keys() - names),
        "unexpected": sorted(names - expected.keys()),
        "of another shape": [
            f"{name} {tuple(found[name].shape)} instead of {expected[name]}"
            for name in sorted(names & expected.keys())
            if tuple(found[name].shape) != expected[name]
        ],
    }
    if any(wrong.values()):
        lines = [f"{where}: its weights do not fit:"]
        for title, some in wrong.items():
            if some:
                more = f" and {len(some) - SHOWN} more" if len(some) > SHOWN else ""
                lines.append(f"  {title}: {', '.join(some[:SHOWN])}{more}")
        raise ValueError("\n".join(lines))
