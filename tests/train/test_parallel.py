"""How a network is laid out: what is refused, what is computed again, and how often it is compiled."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmflow.batch import Conditioning
from mmflow.train.parallel import Parallel, blocks_of, compiles, lay_out
from tests.conftest import features, random_mmdit
from tests.train.runs import ROOT


def test_a_mesh_of_replicas() -> None:
    assert Parallel(shard=True).mesh_shape(8, 2) == (1, 8)
    assert Parallel(shard=True, replicas=4).mesh_shape(8, 2) == (4, 2)
    assert Parallel(shard=True, replicas="nodes").mesh_shape(16, 2) == (2, 8)
    with pytest.raises(ValueError, match=r"replicas 3 does not divide 8 processes"):
        Parallel(shard=True, replicas=3).mesh_shape(8, 1)


def test_compilation_where_it_pays_and_can_be_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    (tmp_path / "Python.h").write_text("")
    auto = Parallel(compile="auto")
    assert not compiles(auto, "cpu", trains=True) and compiles(Parallel(compile=True), "cpu", trains=False)
    (tmp_path / "g++").write_text("")
    (tmp_path / "g++").chmod(0o755)
    assert compiles(auto, "cpu", trains=True) and not compiles(auto, "cpu", trains=False)
    (tmp_path / "Python.h").unlink()
    assert not compiles(auto, "cpu", trains=True)
    (tmp_path / "Python.h").write_text("")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert not compiles(auto, "cpu", trains=True)


def test_what_contradicts_itself() -> None:
    with pytest.raises(ValueError, match=r"parallel\.replicas 2 groups what parallel\.shard cuts"):
        Parallel(replicas=2)
    with pytest.raises(ValueError, match=r"at least 1 or `nodes`, got 0"):
        Parallel(shard=True, replicas=0)


@pytest.mark.parametrize("recompute", ["none", "block", "selective"])
def test_computing_again_changes_memory_and_nothing_else(recompute: str) -> None:
    """Gradients are the same; what is kept for the backward shrinks."""
    z = (torch.randn(2, 3, 1, 8, 8), torch.randn(1, 3, 2, 8, 8))
    args = z, torch.rand(3), Conditioning(features([2, 3, 5]))
    plain, model = random_mmdit(), random_mmdit()
    lay_out(model, Parallel(recompute=recompute), None, None)  # type: ignore[arg-type]
    assert len(blocks_of(model)) == 2 and model.state_dict().keys() == plain.state_dict().keys()
    kept, grads = [], []
    for network in (plain, model):
        sizes: list[int] = []

        def note(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = torch.stack([out.square().mean() for out in network(*args)]).sum()
        kept.append(sum(sizes))
        loss.backward()
        grads.append({name: p.grad for name, p in network.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-5, atol=1e-7)
    assert kept[1] == kept[0] if recompute == "none" else kept[1] < 0.5 * kept[0]


@pytest.mark.slow
@pytest.mark.parametrize(("recompute", "temporal"), [("none", "joint"), ("block", "joint"), ("selective", "joint")])
def test_one_compilation_serves_all_shapes(recompute: str, temporal: str) -> None:
    """No graph break, and not one program per shape: one for dense and one for ragged bags, of each kind of block."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.train.compiled", recompute, temporal]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    kinds = 2 * 2 * (2 if temporal == "added" else 1)  # blocks x (dense, ragged) x (with clips, without)
    assert found["breaks"] == 0 and 2 <= found["programs"] <= kinds + 2, found
    assert found["worst"] < 1e-3
    # With and without gradients and an autocast: more than the eight programs after which torch gives up by itself.
    assert 8 < found["of_all"] <= 4 * (kinds + 2), found
