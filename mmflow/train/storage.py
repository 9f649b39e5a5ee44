"""Checkpoints on disk: one file, or a folder that every process writes its shards into; either loads into any layout.

A folder is torch's distributed checkpoint (DCP) of all tensors, named by their place in the checkpoint, and `plain.pt`
with the rest. Neither form is ever unpickled freely.
"""

import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, final

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

PLAIN = "plain.pt"
METADATA = ".metadata"
Place = tuple[str | int, ...]
"""Keys on the way to a tensor within a checkpoint."""

ALLOWED = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata",
        "StorageMeta",
        "MetadataIndex",
        "TensorStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "torch": {"Size", "float32", "float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool"},
}
"""What DCP's own index of a folder consists of; anything else in it is refused."""


def not_plain(path: Path) -> ValueError:
    """Why a file is not read."""
    return ValueError(
        f"{path} is not a checkpoint of tensors and plain values: it is cut short, or holds objects that only a "
        "pickle could make, which mmflow never runs; convert foreign weights to .safetensors first"
    )


def load_plain(path: Path) -> dict[str, Any]:
    """A file of tensors and plain values, tensors mapped from disk.

    Raises:
        ValueError: if it holds anything else, or is cut short.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise not_plain(path) from error
    return content


def split(content: Any, place: Place = ()) -> tuple[Any, dict[str, Tensor]]:
    """What of a checkpoint is no tensor, and its tensors by the JSON of their place."""
    tensors: dict[str, Tensor] = {}
    if not isinstance(content, dict | list):
        return content, tensors
    pairs = list(content.items() if isinstance(content, dict) else enumerate(content))
    rest: dict[Any, Any] = {}
    for key, value in pairs:
        if isinstance(value, Tensor):
            assert isinstance(content, dict), "tensors of a checkpoint stand in dictionaries"
            tensors[json.dumps([*place, key])] = value
        else:
            rest[key], more = split(value, (*place, key))
            tensors |= more
    return (rest if isinstance(content, dict) else list(rest.values())), tensors


def join(rest: dict[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The checkpoint that `split` took apart."""
    for name, tensor in tensors.items():
        *way, last = json.loads(name)
        target: Any = rest
        for key in way:
            target = target[key]
        target[last] = tensor
    return rest


@final
class _PlainUnpickler(pickle.Unpickler):
    """Reads DCP's index and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} has no place in the index of a checkpoint")
        return super().find_class(module, name)


@final
class PlainReader(FileSystemReader):
    """DCP's reader, without its readiness to run whatever an index asks for.

    Args:
        folder: the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._metadata: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        # Kept: DCP asks anew at every load, and the index of a large model takes longer to read than a tensor.
        if self._metadata is None:
            path = Path(str(self.path)) / METADATA
            try:
                with path.open("rb") as file:
                    self._metadata = _PlainUnpickler(file).load()
            except (pickle.UnpicklingError, EOFError, AttributeError, OSError) as error:
                raise not_plain(path) from error
        assert self._metadata is not None and self._metadata.storage_meta is not None
        self._metadata.storage_meta.load_id = self.load_id
        return self._metadata


def write_folder(content: dict[str, Any], folder: Path) -> None:
    """Writes a checkpoint whose tensors are spread over the processes. To be called by all of them."""
    plain, tensors = split(content)
    folder.mkdir(parents=True, exist_ok=True)
    dcp.save(tensors, storage_writer=FileSystemWriter(folder, sync_files=True))  # type: ignore[attr-defined]
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        write_file(plain, folder / PLAIN)


def write_file(content: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint that this process holds whole, down to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        torch.save(content, file)
        sync(file)


def sync(file: BinaryIO) -> None:
    """Waits until a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@final
class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a folder by the JSON of their place, read one at a time and whole.

    Args:
        folder: the checkpoint.

    Raises:
        ValueError: if its index is cut short or asks for more than an index needs.
    """

    def __init__(self, folder: Path) -> None:
        self.reader = PlainReader(folder)
        self.index: dict[str, TensorStorageMetadata] = {}
        for name, about in self.reader.read_metadata().state_dict_metadata.items():
            if not isinstance(about, TensorStorageMetadata):
                raise not_plain(folder / METADATA)
            self.index[name] = about

    def bare(self, name: str) -> Tensor:
        """A tensor of the same shape without memory."""
        return torch.empty(self.index[name].size, dtype=self.index[name].properties.dtype, device="meta")

    def __getitem__(self, name: str) -> Tensor:
        into = {name: torch.empty_like(self.bare(name), device="cpu")}
        dcp.load(into, storage_reader=self.reader, no_dist=True)  # type: ignore[attr-defined]
        return into[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.index)

    def __len__(self) -> int:
        return len(self.index)


def read(path: Path, make: Callable[[Place, Tensor], Tensor] | None = None) -> dict[str, Any]:
    """A whole checkpoint.

    Args:
        path: file or folder.
        make: (place, a tensor of that shape without memory) -> memory for it, which may be a part of it only; by
            default all of it on the host. To be called by all processes if it makes parts.

    Raises:
        ValueError: if it holds anything but tensors and plain values, or is cut short.
    """
    if path.is_file():
        return load_plain(path)
    stored = StoredTensors(path)
    tensors: dict[str, Any] = {}
    for name in stored.index:
        bare = stored.bare(name)
        tensors[name] = torch.empty_like(bare, device="cpu") if make is None else make(tuple(json.loads(name)), bare)
    dcp.load(tensors, storage_reader=PlainReader(path), no_dist=make is None)  # type: ignore[attr-defined]
    return join(load_plain(path / PLAIN), tensors)


def read_plain(path: Path) -> dict[str, Any]:
    """A checkpoint without reading its tensors; they are mapped from disk if it is a file, and absent if a folder."""
    if path.is_file():
        return load_plain(path)
    StoredTensors(path)  # refuses a folder whose index is not one
    return load_plain(path / PLAIN)
