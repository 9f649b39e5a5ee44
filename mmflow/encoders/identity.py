"""What the words of a frozen network depend on, for a cache to tell whether they are those of another one."""

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmflow.encoders.hub import local

Identity = dict[str, Any]
"""Names and values that JSON can hold. `weights` and `tokenizer` are digests, None of files that are not on this
machine; `path` says where they came from, and is looked at only in that case."""

WEIGHTS = ("*.safetensors", "*.bin", "config.json")
TOKENIZER = ("*.txt", "*.model", "tokenizer*.json", "vocab*.json", "special_tokens_map.json", "added_tokens.json")
WHOLE = 1 << 26
"""Files up to so many bytes are read whole."""
PIECE = 512
"""Bytes that are read at the beginning and in the middle of each tensor of a larger file."""


def digest_of(path: str, subfolder: str, patterns: tuple[str, ...], whole: bool = False) -> str | None:
    """A digest of what the files of a network hold; None if they are not on this machine.

    Small files are read whole. Of a large .safetensors it is the header, with every tensor's name, type, shape and
    place, and two pieces of every tensor: seconds are spared, and training changes every number of what it trains.

    whole  every byte of large files, too: about a second for a gigabyte
    """
    place = _on_this_machine(path, subfolder)
    if place is None:
        return None
    files = [place] if place.is_file() else sorted({file for each in patterns for file in place.glob(each)})
    if place.is_file() and (place.parent / "config.json").is_file():
        files.append(place.parent / "config.json")
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(f"{file.suffix} {file.stat().st_size}\n".encode())
        for piece in _every_byte(file) if whole else _pieces(file):
            digest.update(piece)
    return digest.hexdigest() if files else None


def _on_this_machine(path: str, subfolder: str) -> Path | None:
    try:
        place = local(path)
    except ValueError:
        return None
    if place is not None:
        return place if place.is_file() else place / subfolder
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "tokenizer_config.json"):
        found = try_to_load_from_cache(path, f"{subfolder}/{name}" if subfolder else name)
        if isinstance(found, str):
            return Path(found).parent
    return None


def _pieces(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= WHOLE:
            yield stream.read()
            return
        for start in (
            _starts(stream, size) if file.suffix == ".safetensors" else range(0, size, max(PIECE, size // 2048))
        ):
            stream.seek(start)
            yield stream.read(PIECE)


def _every_byte(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while piece := stream.read(1 << 22):
            yield piece


def _starts(stream: Any, size: int) -> Iterator[int]:
    """Where to read in a .safetensors file: all of its header, and each tensor's beginning and middle."""
    length = int.from_bytes(stream.read(8), "little")
    if not 0 < length < size:
        raise ValueError(f"{getattr(stream, 'name', 'weights')}: no .safetensors file")
    header = json.loads(stream.read(length))
    yield from range(0, 8 + length, PIECE)
    for name in sorted(header):
        if name != "__metadata__":
            first, last = header[name]["data_offsets"]
            yield from (8 + length + first, 8 + length + (first + last) // 2)
