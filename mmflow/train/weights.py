"""Weights from files: checkpoints of runs and safetensors. Nothing is ever unpickled."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmflow.train.ema import CHECKPOINT_KEY

PREFIX = "backbone."
SHOWN = 6


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a user means: a file, or a run directory's `checkpoints/last.ckpt`.

    Raises:
        ValueError: if there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    last = path / "checkpoints" / "last.ckpt"
    if last.is_file():
        return last
    if path.is_dir():
        raise ValueError(f"{path} has no checkpoints/last.ckpt: name a checkpoint file, or a run that has saved one")
    raise ValueError(f"no checkpoint at {path}: name a .ckpt or .safetensors file, or a run directory")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, tensors mapped from disk.

    Raises:
        ValueError: if the file holds anything but tensors and plain values.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is not a checkpoint of tensors and plain values: it is cut short, or holds objects that only a "
            "pickle could make, which mmflow never runs; convert foreign weights to .safetensors first"
        ) from error
    return checkpoint


def load_weights(source: str) -> dict[str, Tensor]:
    """The network's weights named by `RUN|file[@ema|@raw]`; the average where nothing is said and there is one.

    Raises:
        ValueError: if the file or the asked-for kind of weights does not exist.
    """
    match = re.fullmatch(r"(.*?)(?:@(ema|raw))?", source)
    assert match is not None
    path, kind = find_checkpoint(match[1]), match[2]
    if path.suffix == ".safetensors":
        if kind == "ema":
            raise ValueError(f"{path} holds one set of weights, without @ema")
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is no whole safetensors file ({error}): fetch or make it again") from error
        return {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    checkpoint = load_checkpoint(path)
    if "state_dict" not in checkpoint:
        raise ValueError(f"{path} is no checkpoint of a run: it has no state_dict; bare weights belong in .safetensors")
    average = checkpoint.get(CHECKPOINT_KEY, {}).get("average")
    if kind == "ema" and not average:
        raise ValueError(f"{path} has no averaged weights: ask for {match[1]}@raw")
    raw = network_weights(checkpoint["state_dict"])
    # The average holds what learns; a table of positions does not, and comes from the raw state.
    return {**raw, **average} if average and kind != "raw" else raw


def network_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of a module's state, under its own names."""
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}


def check_weights(found: dict[str, Tensor], expected: dict[str, Tensor], where: str) -> None:
    """Compares names and shapes.

    Raises:
        ValueError: naming depth and width of both sides where they differ, and the tensors that do not fit.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [
        f"{n} {tuple(found[n].shape)} instead of {tuple(expected[n].shape)}"
        for n in sorted(found.keys() & expected.keys())
        if found[n].shape != expected[n].shape
    ]
    if not (missing or extra or wrong):
        return
    lines = [f"the weights of {where} do not fit this model:"]
    if _depth(found) != _depth(expected):
        lines.append(
            f"  they are of depth {_depth(found)}, the model of depth {_depth(expected)}: "
            f"set --model.backbone.depth {_depth(found)}, or name another checkpoint"
        )
    for title, names in (("missing", missing), ("unexpected", extra), ("of another shape", wrong)):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"  {title}: {', '.join(names[:SHOWN])}{more}")
    raise ValueError("\n".join(lines))


def _depth(weights: dict[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
