"""Checkpoints on disk: what is taken apart is put together, and nothing in them is run."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from mmflow.train.storage import METADATA, StoredTensors, join, read, read_plain, split, write_file, write_folder
from mmflow.train.weights import load_weights

CONTENT: dict[str, Any] = {
    "state_dict": {"backbone.w": torch.arange(6.0).reshape(2, 3), "backbone.table": torch.ones(2)},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2, 3)}}, "param_groups": [1]}],
    "ema": {
        "average": {"w": torch.full((2, 3), 5.0)},
        "others": {"0.9": {"w": torch.full((2, 3), 9.0)}},
        "decays": [0.5, 0.9],
    },
    "global_step": 7,
    "nothing": {},
}


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(CONTENT, tmp_path / "step-000000007.ckpt")
    return tmp_path / "step-000000007.ckpt"


def test_splitting_and_joining_are_inverse() -> None:
    rest, tensors = split(CONTENT)
    assert len(tensors) == 6 and not split(rest)[1]
    assert equal(join(rest, tensors), CONTENT)


def test_both_forms_come_back_as_they_were(folder: Path, tmp_path: Path) -> None:
    write_file(CONTENT, tmp_path / "a.ckpt")
    assert equal(read(tmp_path / "a.ckpt"), CONTENT) and equal(read(folder), CONTENT)
    assert read_plain(folder)["global_step"] == 7 and not read_plain(folder)["state_dict"]


@pytest.mark.parametrize(("kind", "value"), [("", 5.0), ("@ema", 5.0), ("@ema:0.9", 9.0), ("@raw", None)])
def test_any_weights_of_either_form(kind: str, value: float | None, folder: Path, tmp_path: Path) -> None:
    write_file(CONTENT, tmp_path / "a.ckpt")
    expected = CONTENT["state_dict"]["backbone.w"] if value is None else torch.full((2, 3), value)
    for path in (folder, tmp_path / "a.ckpt"):
        found = load_weights(f"{path}{kind}")
        assert torch.equal(found["w"], expected) and torch.equal(found["table"], torch.ones(2))
        with pytest.raises(ValueError, match=r"of decay 0\.7: .*@raw or @ema:0\.5, @ema:0\.9"):
            load_weights(f"{path}@ema:0.7")


class Evil:
    """Unpickling it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_an_index_that_wants_something_run_is_refused(folder: Path, tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    for content in (pickle.dumps(Evil(harm)), (folder / METADATA).read_bytes()[:-20], b""):
        (folder / METADATA).write_bytes(content)
        for use in (read, read_plain, StoredTensors):
            with pytest.raises(ValueError, match=r"\.metadata is not a checkpoint of tensors and plain values"):
                use(folder)
    assert not harm.exists()
