"""Weights from files: checkpoints of runs, released models, and safetensors. Nothing is ever unpickled."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmflow.model.archive import Archive, files_of
from mmflow.model.family import family
from mmflow.model.grow import grown_shapes, start_from
from mmflow.model.hub import fetch, is_hub_id
from mmflow.model.interop import open_released, without_memory
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


def load_weights(source: str) -> Mapping[str, Tensor]:
    """The network's weights, named by `RUN|file[@ema|@raw]` or a released model: a diffusers folder, a single file, or
    the id of one on the Hub.

    A run's average where nothing is said and there is one. Safetensors are read one tensor at a time.

    Raises:
        ValueError: if the file or the asked-for kind of weights does not exist, or is of another kind or family.
    """
    match = re.fullmatch(r"(.*?)(?:@(ema|raw))?", source)
    assert match is not None
    path, kind = Path(match[1]), match[2]
    if is_hub_id(match[1]):
        path = fetch(match[1])
    if path.suffix in (".safetensors", ".gguf") or _is_model_folder(path):
        if kind == "ema":
            raise ValueError(f"{path} holds one set of weights, without @ema")
        return _published(find_checkpoint(path) if not path.is_dir() else path)
    path = find_checkpoint(path)
    checkpoint = load_checkpoint(path)
    if "state_dict" not in checkpoint:
        raise ValueError(
            f"{path} is no checkpoint of a run: it has no state_dict. Bare weights belong "
            f"in .safetensors: python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('{path}', "
            f"weights_only=True), '{path.with_suffix('.safetensors')}')\""
        )
    average = checkpoint.get(CHECKPOINT_KEY, {}).get("average")
    if kind == "ema" and not average:
        raise ValueError(f"{path} has no averaged weights: ask for {match[1]}@raw")
    raw = network_weights(checkpoint["state_dict"])
    # The average holds what learns; a table of positions does not, and comes from the raw state.
    return {**raw, **average} if average and kind != "raw" else raw


def _is_model_folder(path: Path) -> bool:
    """A folder as diffusers has it, or its `transformer/`, and no run directory."""
    return (
        path.is_dir()
        and not (path / "checkpoints").is_dir()
        and bool((path / "transformer").is_dir() or list(path.glob("diffusion_pytorch_model*")))
    )


def _published(path: Path) -> Mapping[str, Tensor]:
    released = open_released(path)
    if released is not None:
        return released.weights()
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    archive = Archive.of(files_of(folder) if path.is_dir() else [path])
    return archive.under(PREFIX) if any(name.startswith(PREFIX) for name in archive) else archive


def start_weights(network: nn.Module, source: str) -> list[str]:
    """Starts a network, which has its first values, from the weights of `source`; what it has more is grown or new.

    Returns:
        What was copied, grown and new, for people.

    Raises:
        ValueError: naming the tensors that fit nowhere.
    """
    weights = load_weights(source)
    shapes = without_memory(weights)
    state = network.state_dict()
    # Another depth or family is said about what is there, not about what could be grown from it.
    alike = _depth(shapes) == _depth(state) and family(shapes) == family(state)
    check_weights(grown_shapes(network, shapes) if alike else shapes, state, source)
    report = start_from(network, weights, shapes)
    sizes = {name: value.numel() for name, value in state.items()}
    return [f"weights of {source}:", *report.lines(sizes)]


def network_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's part of a module's state, under its own names."""
    return {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
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
    theirs, ours = family(found), family(expected)
    if theirs != ours and theirs is not None and ours is not None:
        lines.append(
            f"  they are of another family: a {_short(theirs)}'s, the model is a {_short(ours)}: set --model.backbone "
            f"{theirs}, or name another checkpoint"
        )
    elif _depth(found) != _depth(expected):
        lines.append(
            f"  they are of depth {_depth(found)}, the model of depth {_depth(expected)}: "
            f"set --model.backbone.depth {_depth(found)}, or name another checkpoint"
        )
    for title, names in (("missing", missing), ("unexpected", extra), ("of another shape", wrong)):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(f"  {title}: {', '.join(names[:SHOWN])}{more}")
    raise ValueError("\n".join(lines))


def _short(path: str) -> str:
    return path.rsplit(".", 1)[-1]


def _depth(weights: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
