"""Weights from runs and files, never from a pickle."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmflow.train.storage import load_plain
from mmflow.train.weights import check_weights, find_checkpoint, load_weights, network_weights
from tests.conftest import random_mmdit


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose raw weight is 1 and whose averaged weight is 2."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    state = {"backbone.w": torch.tensor([1.0]), "density.sums": torch.zeros(2)}
    ema = {"average": {"w": torch.tensor([2.0])}, "num_updates": 3}
    torch.save({"state_dict": state, "ema": ema, "global_step": 7}, tmp_path / "run" / "checkpoints" / "last.ckpt")
    torch.save({"state_dict": state}, tmp_path / "raw.ckpt")
    save_file({"w": torch.tensor([3.0])}, tmp_path / "w.safetensors")
    save_file({"backbone.w": torch.tensor([4.0])}, tmp_path / "prefixed.safetensors")
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("run", 2.0),
        ("run@ema", 2.0),
        ("run@raw", 1.0),
        ("run/checkpoints/last.ckpt", 2.0),
        ("run/checkpoints/last.ckpt@raw", 1.0),
        ("raw.ckpt", 1.0),
        ("raw.ckpt@raw", 1.0),
        ("w.safetensors", 3.0),
        ("w.safetensors@raw", 3.0),
        ("prefixed.safetensors", 4.0),
    ],
)
def test_a_run_a_file_and_which_of_its_weights(run: Path, source: str, value: float) -> None:
    weights = load_weights(str(run.parent / source))
    assert {name: w.item() for name, w in weights.items()} == {"w": value}


def test_what_does_not_learn_stands_beside_the_average(run: Path, tmp_path: Path) -> None:
    state = {"backbone.w": torch.tensor([1.0]), "backbone.position_table": torch.tensor([5.0])}
    torch.save({"state_dict": state, "ema": {"average": {"w": torch.tensor([2.0])}}}, tmp_path / "t.ckpt")
    for kind, w in (("ema", 2.0), ("raw", 1.0)):
        found = load_weights(f"{tmp_path / 't.ckpt'}@{kind}")
        assert {n: v.item() for n, v in found.items()} == {"w": w, "position_table": 5.0}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raw.ckpt@ema", r"no averaged weights: ask for .*raw\.ckpt@raw"),
        ("w.safetensors@ema", "one set of weights"),
        ("none.ckpt", "no checkpoint at .*none.ckpt"),
        ("", "has no checkpoints/last.ckpt"),
    ],
)
def test_what_is_not_there(run: Path, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_weights(str(run.parent / source))


def test_an_at_sign_in_a_folder_s_name_is_a_name(run: Path) -> None:
    odd = run.rename(run.parent / "me@home")
    assert load_weights(str(odd))["w"].item() == 2.0 and load_weights(f"{odd}@raw")["w"].item() == 1.0
    assert find_checkpoint(odd) == odd / "checkpoints" / "last.ckpt"


class Evil:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["torch.ckpt", "plain.ckpt", "cut.ckpt", "empty.ckpt"])
def test_nothing_is_unpickled(run: Path, name: str) -> None:
    harm, path = run.parent / "harm", run.parent / name
    torch.save({"state_dict": {}, "x": Evil(harm)}, run.parent / "torch.ckpt")
    (run.parent / "plain.ckpt").write_bytes(pickle.dumps(Evil(harm)))
    whole = (run / "checkpoints" / "last.ckpt").read_bytes()
    (run.parent / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (run.parent / "empty.ckpt").touch()
    with pytest.raises(ValueError, match=f"{name} is not a checkpoint of tensors and plain values"):
        load_plain(path)
    assert not harm.exists()


def test_a_damaged_safetensors_file_is_named(run: Path) -> None:
    whole = (run.parent / "w.safetensors").read_bytes()
    (run.parent / "w.safetensors").write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=r"w\.safetensors"):
        load_weights(str(run.parent / "w.safetensors"))


def test_a_file_of_bare_tensors_is_refused_by_name(run: Path) -> None:
    torch.save({"w": torch.zeros(1)}, run.parent / "bare.pt")
    with pytest.raises(ValueError, match=r"bare\.pt .*state_dict"):
        load_weights(str(run.parent / "bare.pt"))


def test_a_network_s_own_weights_fit(run: Path, tmp_path: Path) -> None:
    network = random_mmdit(depth=1)
    torch.save({"state_dict": {f"backbone.{n}": w for n, w in network.state_dict().items()}}, tmp_path / "n.ckpt")
    found = load_weights(str(tmp_path / "n.ckpt"))
    check_weights(found, network.state_dict(), "n.ckpt")
    assert all(torch.equal(found[n], w) for n, w in network.state_dict().items())


def test_another_depth_is_said_first() -> None:
    small, large = (random_mmdit(depth=depth).state_dict() for depth in (1, 2))
    with pytest.raises(ValueError, match=r"depth 1, the model of depth 2: set --model\.backbone\.depth 1") as raised:
        check_weights(small, large, "here")
    text = str(raised.value)
    assert text.startswith("the weights of here do not fit") and "  missing: blocks." in text
    assert "more" in text and len(text) < 1000


def test_missing_unexpected_and_misshapen_tensors_are_told_apart() -> None:
    expected = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}
    found = {"a": torch.zeros(2), "b": torch.zeros(4), "d": torch.zeros(1)}
    with pytest.raises(ValueError) as raised:
        check_weights(found, expected, "x")
    lines = str(raised.value).splitlines()[1:]
    assert lines == ["  missing: c", "  unexpected: d", "  of another shape: b (4,) instead of (3,)"]


def test_only_the_network_s_part_of_a_module_is_taken() -> None:
    state = {"backbone.a": torch.ones(1), "density.counts": torch.ones(1), "a.backbone.b": torch.ones(1)}
    assert set(network_weights(state)) == {"a"}
