"""Digests of weights: what tells two networks apart without reading every byte, and by reading it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmflow.encoders import identity
from mmflow.encoders.identity import WEIGHTS, digest_of


def test_a_large_file_is_known_by_pieces_of_every_tensor_or_by_every_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(4096.0), "b": torch.ones(8)}, file)
    data = file.read_bytes()
    quarter = len(data) - 4 * 8 - 3 * 4096  # of the larger tensor: between the two pieces that are read of it

    def digests(changed: int | None) -> list[str | None]:
        file.write_bytes(data if changed is None else data[:changed] + bytes([data[changed] ^ 1]) + data[changed + 1 :])
        return [digest_of(str(tmp_path), "", WEIGHTS, whole) for whole in (False, True)]

    assert len(set(digests(None))) == 1 and digests(None) != digests(quarter)
    monkeypatch.setattr(identity, "WHOLE", 1024)
    (pieces, whole), (pieces_too, other) = digests(None), digests(quarter)
    assert pieces == pieces_too and whole != other
    assert digests(len(data) - 4 * 8 - 4 * 4096)[0] != pieces, "the beginning of a tensor is read"
    assert digest_of(str(tmp_path / "none"), "", WEIGHTS, whole=True) is None
