"""tools/plan.py as its users call it."""

from pathlib import Path

import pytest
import torch

from mmflow.model.design import Design
from mmflow.planning.hardware import GB, gpu_of
from mmflow.planning.memory import Shape
from mmflow.planning.plan import Job, best, job_line, seconds, ways, wire_bytes
from tests.planning.test_memory import build
from tools.plan import main

ROOT = Path(__file__).parent.parent.parent
CONFIG = str(ROOT / "configs" / "quickstart.yaml")


def test_a_plan_says_what_a_run_costs_and_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", CONFIG, "--gpus", "2", "--gpu", "mine:16:10", "--trainer.max_steps", "1000"]) == 0
    said = capsys.readouterr().out
    for words in (
        *("1.1 M parameters", "a step of 64 samples", "FLOPs a step", "1,000 steps", "DDP", "shards of 2"),
        *("selective", "block", "between steps: encode 0.0 GB", "a checkpoint is"),
    ):
        assert words in said
    assert "take DDP: 64 samples = 2 ranks x 1 micro-steps of up to 32; parallel.recompute none" in said


def test_what_cannot_fit_is_refused_with_what_can(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--config", CONFIG, "--gpus", "1", "--gpu", "tiny:0.012:1"]
    assert main(small) == 1
    assert "nothing fits 1 x tiny" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["h1000", "mine:80", "mine:80:-1", "mine:a:b"])
def test_an_unknown_gpu_is_asked_for_its_numbers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", CONFIG, "--gpus", "1", "--gpu", name]) == 1
    assert "give another by its numbers" in capsys.readouterr().err
    assert gpu_of("mine:96:500:100").link == 100 * GB


def test_bytes_on_the_wire_in_closed_form() -> None:

    model = build(2, Design(), "meta")
    job = Job(model, (Shape(1, (1, 16, 16), 6),), 64, None, 0.0, 1, 0.0, half=True)
    assert wire_bytes(job, 1, 1, 1) == 0
    assert wire_bytes(job, 8, 1, 5) == pytest.approx(2 * 7 / 8 * job.weights)
    assert wire_bytes(job, 8, 8, 2) == pytest.approx(2 * 7 / 8 * 2 * job.weights)
    assert wire_bytes(job, 16, 8, 1) == pytest.approx(7 / 8 * 2 * job.weights + 2 * job.weights / 2 / 8)
    line = {"none": job_line(job)}
    assert [fit.shards for fit in ways(job, line, 16, gpu_of("h100"))] == [1, 8, 16]


def test_what_is_computed_again_is_not_kept_and_the_fastest_that_fits_is_taken() -> None:
    job = Job(build(4, Design(), "meta"), (Shape(8, (1, 32, 32), 6),), 64, None, 0.0, 1, 0.0, half=False)
    lines = {how: job_line(job, how) for how in ("none", "selective", "block")}
    kept = [line.at.saved for line in lines.values()]
    assert kept[0] > kept[1] > kept[2] and kept[2] < 0.4 * kept[0]
    assert all("forward" not in block.__dict__ for block in job.model.blocks)
    fits = ways(job, lines, 1, gpu_of("h100"))
    chosen = best(job, fits, 1, gpu_of("h100"), 0.4)
    assert chosen is not None and chosen.recompute == "none"
    assert seconds(job, fits[2], 1, gpu_of("h100"), 0.4) == pytest.approx(
        4 / 3 * seconds(job, fits[0], 1, gpu_of("h100"), 0.4)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_audit_is_green(precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", CONFIG, "--audit", "--model.precision", precision]) == 0
    said = capsys.readouterr().out
    parts = ("t embedding", "positions", "modulation", "norms", "attention", "loss", "optimizer state")
    assert all(part in said for part in parts) and said.count("green") == len(parts)


def test_the_audit_sees_a_time_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmflow.planning import audit

    exact = audit.time_sinusoid
    monkeypatch.setattr(audit, "time_sinusoid", lambda t: exact(t.bfloat16()))
    parts = {part.name: part for part in audit.audit(128, torch.bfloat16)}
    assert not parts["t embedding"].is_green and parts["norms"].is_green
