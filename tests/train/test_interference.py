"""Gradients of pictures and clips side by side, where their relation is known."""

import csv
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmflow.__main__ import main
from mmflow.batch import Batch, Conditioning
from mmflow.flow.adaptive import Adaptive
from mmflow.flow.density import AbstractDensity, LogitNormal, Uniform
from mmflow.flow.objective import FlowObjective
from mmflow.model.grow import start_from
from mmflow.model.mmdit import MMDiT
from mmflow.train.interference import Interference, compare, layer_group
from mmflow.train.weights import load_weights
from tests.conftest import features, random_mmdit
from tests.test_bad_input import refused_fit
from tests.test_cli import ENV, ROOT, TINY


def test_cosine_and_ratio_of_known_vectors() -> None:
    a = {"x": torch.tensor([1.0, 0.0]), "y": torch.tensor([0.0]), "only": torch.tensor([1.0])}
    b = {"x": torch.tensor([3.0, 3.0]), "y": torch.tensor([0.0]), "only": torch.tensor([0.0])}
    found = compare(a, b, {"x": "g", "y": "g", "only": "h"})
    assert found.keys() == {"g"}
    assert found["g"] == pytest.approx({"cosine": 0.5**0.5, "norm_ratio": 18**0.5})


def test_layer_groups() -> None:
    names = ["blocks.0.visual.qkv.weight", "blocks.3.context.proj.bias", "blocks.5.over_time.modulation.weight"]
    assert [layer_group(n, 6) for n in names] == ["early_visual", "middle_context", "late_over_time"]
    assert layer_group("picture_patchifier.embed.weight", 6) == "patchifiers"
    assert layer_group("final_modulation.weight", 6) == layer_group("time_embedding.first.bias", 6) == "embeddings"


def bag(picture: torch.Tensor, clip: torch.Tensor, eps: tuple[torch.Tensor, torch.Tensor]) -> Batch:
    text = features([4])
    return Batch(
        pixels=(),
        captions=("", ""),
        u=torch.tensor([0.4, 0.4]),
        eps=eps,
        keys=(("a",), ("b",)),
        visits=(0, 0),
        planned=2,
        next_position=2,
        closes_step=True,
        latents=(picture, clip),
        conditioning=Conditioning(text.select([0, 0])),
    )


def inflated() -> MMDiT:
    """A model of clips of two frames, started from one of pictures."""
    base, model = random_mmdit(video_patch_size=None), random_mmdit()
    model.reset_parameters()
    start_from(model, base.state_dict(), {n: t.to("meta") for n, t in base.state_dict().items()})
    return model


def measured(batch: Batch, density: AbstractDensity = Uniform()) -> dict[str, dict[str, float]]:
    model = inflated()
    module = SimpleNamespace(
        backbone=model,
        objective=FlowObjective(density=density),
        autocast=lambda: torch.autocast("cpu", enabled=False),
    )
    found = Interference(1).measure(SimpleNamespace(world_size=1), module, batch)
    assert all(p.grad is None for p in model.parameters())
    return found


def test_a_picture_and_its_repetition_pull_an_inflated_model_the_same_way() -> None:
    x, eps = torch.randn(1, 3, 1, 8, 8), torch.randn(1, 3, 1, 8, 8)
    still, noise = (z.repeat(1, 1, 2, 1, 1) for z in (x, eps))
    found = measured(bag(x, still, (eps, noise)))
    # The patchifiers are each one medium's own and have nothing to compare.
    assert found.keys() == {"early_visual", "early_context", "middle_visual", "middle_context", "embeddings"}
    for group, pair in found.items():
        assert pair == pytest.approx({"cosine": 1.0, "norm_ratio": 1.0}, abs=1e-4), group


def test_opposite_errors_pull_opposite_ways() -> None:
    """The same z_t of a picture and its repetition, and targets on either side of what the network says."""
    x, eps, t = torch.randn(1, 3, 1, 8, 8), torch.randn(1, 3, 1, 8, 8), 0.4
    still, noise = (z.repeat(1, 1, 2, 1, 1) for z in (x, eps))
    batch = bag(x, still, (eps, noise))
    z = 0.6 * x + 0.4 * eps
    with torch.no_grad():
        (said,) = inflated()((z,), torch.tensor([t]), Conditioning(features([4])))
    mirrored = (2 * said - (eps - x)).repeat(1, 1, 2, 1, 1)
    repeated = z.repeat(1, 1, 2, 1, 1)
    opposite = bag(x, repeated - t * mirrored, (eps, repeated + (1 - t) * mirrored))
    for bag_, sign in ((batch, 1.0), (opposite, -1.0)):
        for group, pair in measured(bag_).items():
            assert pair == pytest.approx({"cosine": sign, "norm_ratio": 1.0}, abs=1e-3), group


def test_what_a_density_learns_is_left_alone() -> None:
    density = Adaptive(LogitNormal())
    density.observe(torch.tensor([0.3]), torch.tensor([2.0]))
    before = {name: value.clone() for name, value in density.state_dict().items()}
    measured(
        bag(*(torch.randn(1, 3, n, 8, 8) for n in (1, 2)), tuple(torch.randn(1, 3, n, 8, 8) for n in (1, 2))), density
    )
    assert all(torch.equal(value, before[name]) for name, value in density.state_dict().items())


def test_a_run_logs_it_and_is_the_same_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, every in (("with", "2"), ("without", "0")):
        command = ["fit", "--config", TINY, "--trainer.default_root_dir", str(tmp_path / name)]
        main([*command, "--interference.every_n_steps", every, "--trainer.val_check_interval", "3"])
    rows = list(csv.DictReader((tmp_path / "with" / "metrics.csv").open()))
    cosines = [float(r["interference/early_visual/cosine"]) for r in rows if r.get("interference/early_visual/cosine")]
    # The first output is zero whatever the blocks do, so the first step leaves them alone.
    assert len(cosines) == 2 and all(-1 <= c <= 1 for c in cosines)
    ratios = [float(r["interference/picture_loss"]) for r in rows if r.get("interference/picture_loss")]
    assert len(ratios) == 2 and all(0.5 < r < 1.5 for r in ratios)
    assert "interference" not in (tmp_path / "without" / "metrics.csv").read_text()
    weights = [load_weights(f"{tmp_path / name}@raw") for name in ("with", "without")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    said = refused_fit(capfd, tmp_path / "x", "--interference.every_n_steps", 2, "--data.clip_share", 0)
    assert "data.clip_share must lie between 0 and 1, got 0.0" in said
    with pytest.raises(ValueError, match=r"every_n_steps must be at least 0, got -1"):
        Interference(-1)


@pytest.mark.slow
def test_a_run_of_compiled_blocks_logs_it_too(tmp_path: Path) -> None:
    """As a program of its own: the checks at run time cannot be compiled."""
    given = ["--interference.every_n_steps", "1", "--model.parallel.compile", "true", "--trainer.max_steps", "2"]
    command = [sys.executable, "-m", "mmflow", "fit", "--config", TINY, "--trainer.default_root_dir", str(tmp_path)]
    subprocess.run([*command, *given], check=True, cwd=ROOT, env=ENV)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert sum(bool(row.get("interference/early_visual/cosine")) for row in rows) == 1
