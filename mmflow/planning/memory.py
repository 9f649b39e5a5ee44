"""Memory of one rank, from a training step on tensors that have shapes and no storage.

The step is the real one, forward and backward through the real model under the real autocast, so nothing is fitted:
torch's MemTracker follows every tensor's birth and death, and the peak is the one that a run on a CPU shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from mmflow.batch import Conditioning, TextFeatures
from mmflow.model.mmdit import MMDiT

FP32 = 4
HOST = "cpu"


@dataclass(frozen=True)
class Shape:
    """Samples of one shape in a micro-step: latents of T x H x W, and their captions' tokens."""

    samples: int
    latents: tuple[int, int, int]
    words: int


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one micro-step on a rank that holds the whole model, beside its weights.

    Attributes:
        peak: the most there is at any moment: saved for backward, passing, and the gradients so far.
        saved: saved for backward when the forward pass ends.
        passing: short-lived at the peak.
    """

    peak: int
    saved: int
    passing: int


def step_memory(model: MMDiT, shapes: Sequence[Shape], dtype: torch.dtype | None) -> StepMemory:
    """Follows one forward and backward; takes seconds and no memory, whatever the model's size.

    Args:
        model: on the meta device; its forward may recompute activations. It is not changed.
        shapes: the micro-step.
        dtype: of autocast; None computes in fp32.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        fakes = {
            name: nn.Parameter(torch.empty(p.shape, device=HOST), requires_grad=p.requires_grad)
            for name, p in model.named_parameters()
        }
    real = {name: p for name, p in model.named_parameters()}
    _swap(model, fakes)
    try:
        return _followed(model, shapes, dtype, mode)
    finally:
        _swap(model, real)


def _followed(model: MMDiT, shapes: Sequence[Shape], dtype: torch.dtype | None, mode: FakeTensorMode) -> StepMemory:
    total = sum(shape.samples for shape in shapes)
    words = [shape.words for shape in shapes for _ in range(shape.samples)]
    with mode:
        z = tuple(torch.empty(s.samples, model.in_channels, *s.latents, device=HOST) for s in shapes)
        t = torch.empty(total, device=HOST)
        context = torch.empty(sum(words), model.context_width, device=HOST)
        pooled = torch.empty(total, model.pooled_width, device=HOST)
    text = TextFeatures(context, torch.tensor(words, dtype=torch.int64).reshape(-1, 1), pooled)
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker, torch.autocast(HOST, dtype or torch.bfloat16, enabled=dtype is not None):
        outputs = model(z, t, Conditioning(text))
        loss = sum((out.float().square().mean() for out in outputs), torch.zeros(()))
        del outputs
        weights = _bytes(tracker, "current", "PARAM")
        saved = _bytes(tracker, "current", "Total") - weights
        loss.backward()  # type: ignore[no-untyped-call]
    return StepMemory(_bytes(tracker, "peak", "Total") - weights, saved, _bytes(tracker, "peak", "TEMP"))


def _bytes(tracker: MemTracker, when: str, kind: str) -> int:
    found = tracker.get_tracker_snapshot(when)[torch.device(HOST)]
    return next(value for name, value in found.items() if str(name).split(".")[-1] == kind)


def _swap(model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        *path, last = name.split(".")
        owner = model.get_submodule(".".join(path))
        owner._parameters[last] = parameter


@dataclass(frozen=True)
class RankMemory:
    """Bytes on one rank at the peak of a step, by what they are for."""

    weights: float
    moments: float
    averages: float
    step: float
    gathered: float
    frozen: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def rank_memory(
    model: MMDiT, step: StepMemory, moments: float, averages: int, shards: int, half: bool, frozen: float
) -> RankMemory:
    """A rank's share. What is cut is weights, gradients, moments and averages; activations are its own samples'.

    Args:
        model: the network.
        step: the rank's micro-step.
        moments: bytes of optimizer state of the whole model.
        averages: how many averages of the weights are kept.
        shards: ranks that one copy of the weights is cut over; 1 is DDP.
        half: shards are gathered in bf16.
        frozen: bytes of frozen networks.
    """
    weights = FP32 * sum(p.numel() for p in model.parameters())
    own = step.peak if shards == 1 else step.saved + step.passing + weights / shards
    # Two blocks are gathered at a time, one of which is computed with; its gradients are whole before they are cut.
    largest = max(sum(p.numel() for p in block.parameters()) for block in model.blocks)
    gathered = 0.0 if shards == 1 else largest * (2 * (2 if half else FP32) + FP32)
    return RankMemory(weights / shards, moments / shards, averages * weights / shards, own, gathered, frozen)


def scaled(shapes: Sequence[Shape], samples: int) -> tuple[Shape, ...]:
    """The mix of `shapes` with about this many samples in all, at least one of each."""
    total = sum(shape.samples for shape in shapes)
    return tuple(replace(s, samples=max(1, round(s.samples * samples / total))) for s in shapes)
