"""Export and start hold a few tensors of a model at a time, never the model, and read each tensor once."""

import gc
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from mmflow.model import archive
from mmflow.model.archive import Archive
from mmflow.model.interop import open_released
from mmflow.model.mmdit import MMDiT
from mmflow.release import trained as trained_module
from mmflow.release.stock import write_diffusers, write_single_file
from mmflow.release.trained import Trained
from mmflow.release.whole import write_whole
from mmflow.train.storage import StoredTensors, write_folder
from mmflow.train.weights import load_weights, start_weights
from tests.release.test_stock import CHANNELS, CONTEXT, POOLED, Vae, network, trained


def by_the_type_checker() -> bool:
    """Whether it is not the package that asks for a tensor: the tests' type checker looks into mappings."""
    frame = sys._getframe(2)
    while frame.f_back and (frame.f_code.co_name == "__getitem__" or "jaxtyping" in frame.f_code.co_filename):
        frame = frame.f_back
    return frame.f_code.co_filename.startswith("<@beartype")


class Watch:
    """What is read of a kind of tensors on disk, and the bytes of it that are alive, also as parts, at each reading."""

    def __init__(self, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads, self.alive, self.most = Counter[str](), 0, 0
        read: Callable[..., Tensor] = kind.__getitem__  # type: ignore[attr-defined]

        def watched(stored: Any, name: str) -> Tensor:
            tensor = read(stored, name)
            if by_the_type_checker():
                return tensor
            self.reads[name] += 1
            # A tensor and all its views keep the array that they are made of, and nothing else does.
            memory = np.frombuffer(bytearray(tensor.flatten().view(torch.uint8).numpy().tobytes()), np.uint8)
            self.alive += memory.nbytes
            self.most = max(self.most, self.alive)
            weakref.finalize(memory, self._gone, memory.nbytes)
            return torch.from_numpy(memory).view(tensor.dtype).view(tensor.shape)

        monkeypatch.setattr(kind, "__getitem__", watched)

    def _gone(self, size: int) -> None:
        self.alive -= size


@pytest.fixture(autouse=True)
def without_the_collector() -> Iterator[None]:
    """What only the collector of cycles would free counts as held."""
    gc.disable()
    yield
    gc.enable()


def sharded_run(folder: Path, **design: object) -> tuple[Trained, int, int]:
    """A run whose weights lie in a folder of shards; the model's bytes, and its largest tensor's."""
    model = network(**design)
    state = model.state_dict()
    content = {"state_dict": {f"backbone.{name}": value for name, value in state.items()}, "global_step": 12}
    write_folder(content, folder / "step-000000012.ckpt")
    (folder / "vae").mkdir()
    run = trained(Vae(folder / "vae", AutoencoderKL()), model.to("meta"), [(32, 48)])
    weights = load_weights(f"{folder / 'step-000000012.ckpt'}@raw")
    sizes = [tensor.nbytes for tensor in state.values()]
    return replace(run, weights=weights, config="model: {backbone: {}}"), sum(sizes), max(sizes)


WRITE = {
    "diffusers": lambda run, out: write_diffusers(run, out, torch.bfloat16),
    "single-file": lambda run, out: write_single_file(run, out / "x.safetensors", torch.bfloat16),
    "whole": lambda run, out: write_whole(run, out, torch.bfloat16),
}


@pytest.mark.parametrize("design", [{"position_table": 20}, {}], ids=["table", "formula"])
@pytest.mark.parametrize("way", WRITE)
def test_an_export_holds_two_tensors_and_reads_each_once(
    way: str, design: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SHARD_BYTES", 200_000)
    monkeypatch.setattr(trained_module, "SMALLEST_TABLE", 16)
    run, model, largest = sharded_run(tmp_path, **design)
    assert model > 6 * largest
    watch = Watch(StoredTensors, monkeypatch)
    WRITE[way](run, tmp_path / "out")
    assert set(watch.reads.values()) == {1} and len(watch.reads) == len(run.weights)
    assert largest <= watch.most <= 2 * largest
    files = list((tmp_path / "out").rglob("*.safetensors"))
    assert len(files) > 3 if way != "single-file" else len(files) == 1
    assert watch.alive == 0


def test_a_start_holds_the_new_model_and_a_few_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SHARD_BYTES", 200_000)
    run, model, largest = sharded_run(tmp_path, position_table=20)
    write_diffusers(run, tmp_path / "out", None)
    clips = MMDiT(2, CHANNELS, CONTEXT, POOLED, 2, (2, 2, 2), base_size=16)
    watch = Watch(Archive, monkeypatch)
    said = start_weights(clips, str(tmp_path / "out"))
    assert "3D patchifier" in " ".join(said)
    # Parts of q, k and v, the one that was copied last, and the table while it is compared with the formula's.
    assert largest <= watch.most <= 3 * largest < model / 2
    assert watch.alive == 0
    released = open_released(tmp_path / "out")
    assert released is not None
    assert torch.equal(clips.blocks[1].visual.qkv.weight, released.weights()["blocks.1.visual.qkv.weight"])
