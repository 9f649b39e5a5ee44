"""Weights from files: checkpoints of runs, released models, and safetensors. Nothing is ever unpickled."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from mmflow.model.archive import Archive, files_of
from mmflow.model.family import family
from mmflow.model.grow import grown_shapes, start_from
from mmflow.model.hub import fetch, is_hub_id
from mmflow.model.interop import open_released, without_memory
from mmflow.train.ema import CHECKPOINT_KEY
from mmflow.train.saved import newest
from mmflow.train.storage import PLAIN, StoredTensors, load_plain

PREFIX = "backbone."
SHOWN = 6


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a user means: itself, or the newest whole one of a run directory.

    Raises:
        ValueError: if there is none.
    """
    path = Path(path)
    if path.is_file() or (path / PLAIN).is_file():
        return path
    found = newest(path)
    if found is not None:
        return found
    if path.is_dir():
        raise ValueError(
            f"{path} has no checkpoints/last.ckpt, nor another whole one: name a checkpoint, or a run that has "
            "saved one"
        )
    raise ValueError(f"no checkpoint at {path}: name a .ckpt or .safetensors file, or a run directory")


def load_weights(source: str) -> Mapping[str, Tensor]:
    """The network's weights, named by `RUN|checkpoint[@ema|@raw|@ema:DECAY]` or a released model: a diffusers folder, a
    single file, or the id of one on the Hub.

    A run's average where nothing is said and there is one, the first of several. Safetensors and shards are read one
    tensor at a time.

    Raises:
        ValueError: if the file or the asked-for kind of weights does not exist, or is of another kind or family.
    """
    match = re.fullmatch(r"(.*?)(?:@(ema|raw)(?::([0-9.]+))?)?", source)
    assert match is not None
    path, kind, decay = Path(match[1]), match[2], match[3]
    if is_hub_id(match[1]):
        path = fetch(match[1])
    if path.suffix in (".safetensors", ".gguf") or _is_model_folder(path):
        if kind == "ema":
            raise ValueError(f"{path} holds one set of weights, without @ema")
        return _published(find_checkpoint(path) if not path.is_dir() else path)
    path = find_checkpoint(path)
    stored = _of_folder(path) if path.is_dir() else _of_file(path)
    average = stored.averages.get(decay or stored.first)
    if kind == "ema" and average is None:
        kinds = ", ".join(f"@ema:{name}" for name in stored.averages)
        raise ValueError(
            f"{path} has no averaged weights{f' of decay {decay}' if decay else ''}: ask for {match[1]}@raw"
            + (f" or {kinds}" if kinds else "")
        )
    # The average holds what learns; a table of positions does not, and comes from the raw state.
    chosen: Mapping[str, Tensor] = stored.raw if average is None or kind == "raw" else stored.raw | average
    return chosen


@dataclass(frozen=True)
class _Stored:
    """The networks of a checkpoint: the raw one, and its averages by their decay."""

    raw: Any
    averages: dict[str, Any]
    """Dictionaries, or `Renamed` tensors of a folder."""
    first: str


def _of_file(path: Path) -> _Stored:
    checkpoint = load_plain(path)
    if "state_dict" not in checkpoint:
        raise ValueError(
            f"{path} is no checkpoint of a run: it has no state_dict. Bare weights belong "
            f"in .safetensors: python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('{path}', "
            f"weights_only=True), '{path.with_suffix('.safetensors')}')\""
        )
    ema = checkpoint.get(CHECKPOINT_KEY, {})
    first = str(ema.get("decays", [""])[0])
    averages = {first: ema["average"]} if ema.get("average") else {}
    return _Stored(network_weights(checkpoint["state_dict"]), averages | ema.get("others", {}), first)


def _of_folder(path: Path) -> _Stored:
    stored, ema = StoredTensors(path), load_plain(path / PLAIN).get(CHECKPOINT_KEY, {})
    raw: dict[str, str] = {}
    averages: dict[str, dict[str, str]] = {}
    first = str(ema.get("decays", [""])[0])
    for place in stored:
        which, *way, name = json.loads(place)
        if which == "state_dict" and name.startswith(PREFIX):
            raw[name.removeprefix(PREFIX)] = place
        elif which == CHECKPOINT_KEY:
            averages.setdefault(first if way == ["average"] else way[-1], {})[name] = place
    views = {decay: Renamed(stored, names) for decay, names in averages.items()}
    return _Stored(Renamed(stored, raw), views, first)


@final
class Renamed(Mapping):  # of tensors by name; left open, or a checker of types would read one to see
    """Some of the tensors of a folder, under names of their own; read one at a time."""

    def __init__(self, stored: StoredTensors, places: dict[str, str]) -> None:
        self.stored, self.places = stored, places

    def __getitem__(self, name: str) -> Tensor:
        return self.stored[self.places[name]]

    def __or__(self, others: "Renamed") -> "Renamed":
        return Renamed(self.stored, self.places | others.places)

    def meta(self) -> dict[str, Tensor]:
        """Tensors of the same shapes without memory."""
        return {name: self.stored.bare(place) for name, place in self.places.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def only(weights: Mapping[str, Tensor], names: Iterable[str]) -> Mapping[str, Tensor]:
    """Some of a checkpoint's tensors, still unread where they are."""
    if isinstance(weights, Renamed):
        return Renamed(weights.stored, {name: weights.places[name] for name in names})
    return {name: weights[name] for name in names}


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
    found = without_memory(found)
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
