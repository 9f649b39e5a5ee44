"""Safetensors files as they are published: read one tensor at a time, written one tensor at a time.

A model of 8 billion parameters is 16 to 32 GB. Nothing here holds more of it than one tensor.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Kinds of numbers that weights may have, by their safetensors name."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
SHARD_BYTES = 5 * 10**9
"""Of one file of a folder, as the Hub has it."""


@dataclass(frozen=True)
class Entry:
    """One tensor on disk."""

    file: Path
    name: str
    shape: tuple[int, ...]
    kind: str
    """Safetensors' name of the dtype."""

    def check(self) -> None:
        """Refuses numbers that cannot be trained on.

        Raises:
            ValueError: if they are quantised or whole.
        """
        if self.kind not in DTYPES:
            named = "fp8" if "F8" in self.kind else "quantised"
            raise ValueError(
                f"{self.file}: {self.name} is of type {self.kind}: {named} weights cannot be trained: fetch the bf16, "
                "fp16 or fp32 file"
            )


def refuse_foreign(path: Path) -> None:
    """Refuses kinds of files that are not safetensors, each with the way out.

    Raises:
        ValueError: for GGUF files and pickles.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix == ".gguf" or start == b"GGUF":
        raise ValueError(f"{path} is a GGUF file: its quantised weights cannot be trained; fetch the .safetensors")
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
        raise ValueError(
            f"{path} is a pickle, which can run any program when read, and is not read here. Convert it where you "
            "trust it: python -c \"import torch, safetensors.torch as s; w = torch.load('"
            f"{path}', weights_only=True); s.save_file(w.get('state_dict', w), '{path.with_suffix('.safetensors')}')\""
        )


def entries(file: Path) -> Iterator[Entry]:
    """All tensors of one safetensors file, by their header.

    Raises:
        ValueError: if it is none, or is cut short.
    """
    refuse_foreign(file)
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - a handle, not a mapping
                part = opened.get_slice(name)
                yield Entry(file, name, tuple(part.get_shape()), part.get_dtype())
    except SafetensorError as error:
        raise ValueError(f"{file} is no whole safetensors file ({error}): fetch or make it again") from error


@final
class Archive(Mapping):  # of tensors by name; left open, or a checker of types would read one to see
    """The tensors of one model, wherever they lie.

    Args:
        found: its entries, by the name it is asked for.
    """

    def __init__(self, found: Mapping[str, Entry]) -> None:
        self.found = dict(found)

    def __getitem__(self, name: str) -> Tensor:
        """Reads one tensor in its own dtype.

        Raises:
            ValueError: if its numbers are of a kind that cannot be trained on.
        """
        entry = self.found[name]
        entry.check()
        with safe_open(entry.file, "pt") as opened:
            tensor: Tensor = opened.get_tensor(entry.name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    def under(self, prefix: str) -> "Archive":
        """The tensors whose names begin so, without it."""
        return Archive({n.removeprefix(prefix): e for n, e in self.found.items() if n.startswith(prefix)})

    def meta(self) -> dict[str, Tensor]:
        """Tensors of the same shapes without memory."""
        return {n: torch.empty(e.shape, dtype=DTYPES.get(e.kind), device="meta") for n, e in self.found.items()}

    @staticmethod
    def of(files: Iterable[Path]) -> "Archive":
        """All tensors of these files.

        Raises:
            ValueError: if two of them hold a tensor of one name.
        """
        found: dict[str, Entry] = {}
        for file in files:
            for entry in entries(file):
                if entry.name in found:
                    raise ValueError(
                        f"{entry.name} stands in {found[entry.name].file} and in {file}: remove one of them"
                    )
                found[entry.name] = entry
        return Archive(found)


def files_of(folder: Path, stem: str = "diffusion_pytorch_model") -> list[Path]:
    """The safetensors files of one network in a diffusers folder: by its index, or the one file; fp32 before fp16.

    Raises:
        ValueError: if there is none, or the index names a file that is not there.
    """
    indexes = sorted(folder.glob(f"{stem}.safetensors.index*.json"), key=lambda p: len(p.name))
    if indexes:
        names = sorted(set(json.loads(indexes[0].read_text())["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{indexes[0]} names files that are not there: {', '.join(missing)}. Fetch them")
        return [folder / name for name in names]
    whole = sorted(folder.glob(f"{stem}*.safetensors"), key=lambda p: len(p.name))
    if whole:
        return whole[:1]
    for pickle in sorted(folder.glob("*.bin")):
        refuse_foreign(pickle)
    raise ValueError(f"{folder} holds no {stem}.safetensors and no index of its parts")


@dataclass(frozen=True)
class Outgoing:
    """One tensor to be written: its size is known before its numbers are made."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_file(path: Path, tensors: list[Outgoing], metadata: Mapping[str, str]) -> None:
    """A safetensors file, written whole or not at all, holding one tensor in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {**metadata, "format": "pt"}}
    offset = 0
    for tensor in tensors:
        span = [offset, offset + tensor.num_bytes]
        header[tensor.name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    writing = path.with_name(f".{path.name}.part")
    with writing.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            value = tensor.make().detach().to("cpu", tensor.dtype).contiguous()
            assert tuple(value.shape) == tensor.shape, (
                f"{tensor.name}: {tuple(value.shape)} announced as {tensor.shape}"
            )
            file.write(value.flatten().view(torch.uint8).numpy().data)
    os.replace(writing, path)


def write_folder(
    folder: Path, tensors: list[Outgoing], metadata: Mapping[str, str], stem: str = "diffusion_pytorch_model"
) -> None:
    """One file, or several of `SHARD_BYTES` with an index, named as diffusers names them."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[list[Outgoing]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(t.num_bytes for t in shards[-1]) + tensor.num_bytes > SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    if len(shards) == 1:
        write_file(folder / f"{stem}.safetensors", tensors, metadata)
        return
    names = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        write_file(folder / name, shard, metadata)
    index = {
        "metadata": {"total_size": sum(t.num_bytes for t in tensors)},
        "weight_map": {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard},
    }
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
