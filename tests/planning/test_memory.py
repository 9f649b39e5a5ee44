"""Planned memory against that of real steps, followed by torch's memory tracker."""

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from mmflow.batch import Conditioning
from mmflow.model.design import Design
from mmflow.model.mmdit import MMDiT
from mmflow.planning.memory import FP32, RankMemory, Shape, StepMemory, memory_line, rank_memory, step_memory
from mmflow.planning.plan import recomputing
from tests.conftest import features

CPU = torch.device("cpu")
RUNS = {
    "pictures": (4, Design(), [Shape(6, (1, 16, 16), 6)], None),
    "pictures in bf16": (4, Design(), [Shape(6, (1, 16, 16), 6)], torch.bfloat16),
    "many pictures": (3, Design(), [Shape(24, (1, 16, 16), 6)], None),
    "pictures and clips": (3, Design(), [Shape(2, (1, 16, 8), 4), Shape(1, (4, 16, 16), 9)], None),
    "two attentions in bf16": (5, Design(dual_attention_blocks=3), [Shape(2, (1, 16, 16), 5)], torch.bfloat16),
    "the paper's way to video": (2, Design(temporal="added"), [Shape(1, (4, 8, 16), 7)], None),
}
"""The planner has no constant that could be fitted to any of them: all of them are held out."""


def build(depth: int, design: Design, device: str) -> MMDiT:
    with torch.device(device):
        return MMDiT(depth, 4, 32, 24, 2, (2, 2, 2), 8, design=design)


def measured(model: MMDiT, shapes: list[Shape], dtype: torch.dtype | None) -> tuple[int, int]:
    """Bytes of a real step on the CPU beside the weights: its peak, and what is saved when its forward ends."""
    z = tuple(torch.randn(s.samples, 4, *s.latents) for s in shapes)
    words = [s.words for s in shapes for _ in range(s.samples)]
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            outputs = model(z, torch.rand(len(words)), Conditioning(features(words, 32, 24)))
            loss = sum((out.float().square().mean() for out in outputs), torch.zeros(()))
            del outputs
        forward = tracker.get_tracker_snapshot("current")[CPU]
        loss.backward()
    peak = tracker.get_tracker_snapshot("peak")[CPU]
    weights = sum(p.numel() * FP32 for p in model.parameters())
    return max(peak.values()) - weights, max(forward.values()) - weights


@pytest.mark.parametrize("name", RUNS)
def test_the_planned_peak_is_that_of_a_real_step(name: str) -> None:
    depth, design, shapes, dtype = RUNS[name]
    planned = step_memory(build(depth, design, "meta"), shapes, dtype)
    real = build(depth, design, "cpu")
    assert (planned.peak, planned.saved) == pytest.approx(measured(real, shapes, dtype), rel=0.05)
    assert 0 < planned.saved <= planned.peak


@pytest.mark.parametrize("name", ["pictures in bf16", "many pictures", "pictures and clips"])
@pytest.mark.parametrize("how", ["selective", "block"])
def test_the_planned_memory_where_blocks_are_computed_again(how: str, name: str) -> None:
    """The peak, and what is saved, which is what computing again is for."""
    depth, design, shapes, dtype = RUNS[name]
    bare = build(depth, design, "meta")
    with recomputing(bare, how):  # type: ignore[arg-type]
        planned = step_memory(bare, shapes, dtype)
    real = build(depth, design, "cpu")
    with recomputing(real, how):  # type: ignore[arg-type]
        assert (planned.peak, planned.saved) == pytest.approx(measured(real, shapes, dtype), rel=0.05)
    assert planned.saved < step_memory(bare, shapes, dtype).saved


def test_planning_leaves_the_model_without_memory_and_as_it_was() -> None:
    model = build(2, Design(), "meta")
    before = dict(model.named_parameters())
    step_memory(model, [Shape(1, (1, 8, 8), 3)], None)
    assert dict(model.named_parameters()).keys() == before.keys()
    assert all(p is before[name] and p.is_meta for name, p in model.named_parameters())


def test_activations_grow_with_the_samples_in_a_line() -> None:
    model = build(2, Design(), "meta")
    line = memory_line(model, [Shape(1, (1, 16, 16), 6)], None)
    four = step_memory(model, [Shape(4, (1, 16, 16), 6)], None)
    assert line.of(4).saved == pytest.approx(four.saved, rel=0.05)
    assert line.of(4).gradients == four.gradients == FP32 * sum(p.numel() for p in model.parameters())


def test_shards_divide_what_is_held_and_gather_two_blocks() -> None:
    model = build(2, Design(), "meta")
    weights = FP32 * sum(p.numel() for p in model.parameters())
    step = StepMemory(saved=2.0 * weights, passing=100, copies=weights / 2, gradients=weights)
    whole = rank_memory(model, step, moments=2 * weights, averages=1, shards=1, half=True, frozen=5)
    assert whole == RankMemory(weights, 2 * weights, weights, 2 * weights + 100, 0, 5)
    cut = rank_memory(model, step, moments=2 * weights, averages=1, shards=4, half=True, frozen=5)
    assert (cut.weights, cut.moments, cut.step) == (weights / 4, weights / 2, 1.5 * weights + 100)
    block = max(sum(p.numel() for p in b.parameters()) for b in model.blocks)
    assert cut.gathered == block * 8
    assert cut.total == cut.weights + cut.moments + cut.averages + cut.step + cut.gathered + cut.frozen


def test_a_block_that_is_computed_again_keeps_no_copies_of_its_weights() -> None:
    model = build(4, Design(), "meta")
    shapes = [Shape(2, (1, 8, 8), 6)]
    plain = step_memory(model, shapes, torch.bfloat16)
    with recomputing(model, "block"):
        again = step_memory(model, shapes, torch.bfloat16)
    blocks = sum(p.numel() for block in model.blocks for p in block.parameters() if p.ndim > 1)
    assert plain.copies - again.copies == 2 * blocks
