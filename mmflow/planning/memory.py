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
from mmflow.model.block import MMDiTBlock
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
    """Bytes of one micro-step on a rank, beside the weights.

    Attributes:
        saved: saved for backward when the forward pass ends, copies of the weights in the computing dtype included.
        passing: what there is at the peak beyond the larger of `saved` and `gradients`.
        copies: of the weights among `saved`.
        gradients: of all weights, fp32.
    """

    saved: float
    passing: float
    copies: float
    gradients: float

    @property
    def peak(self) -> float:
        """The most there is at any moment. Backward frees and adds block by block, so it is at one of its ends."""
        return max(self.saved, self.gradients) + self.passing

    def __add__(self, other: "StepMemory") -> "StepMemory":
        return StepMemory(
            self.saved + other.saved,
            max(self.passing, other.passing),
            self.copies + other.copies,
            self.gradients + other.gradients,
        )

    def times(self, count: float) -> "StepMemory":
        """Of so many equal blocks."""
        return StepMemory(
            self.saved * count, self.passing if count else 0.0, self.copies * count, self.gradients * count
        )


@dataclass(frozen=True)
class Line:
    """A micro-step's memory as it grows: what there is `at` so many samples, and what `each` further one adds."""

    samples: int
    at: StepMemory
    each: StepMemory

    def of(self, samples: float) -> StepMemory:
        """With so many samples of the same mix."""
        more = samples - self.samples
        return StepMemory(
            self.at.saved + more * self.each.saved,
            self.at.passing + more * self.each.passing,
            self.at.copies,
            self.at.gradients,
        )


def memory_line(model: MMDiT, shapes: Sequence[Shape], dtype: torch.dtype | None) -> Line:
    """From a step with the mix once and one with it twice."""
    once = step_memory(model, shapes, dtype)
    twice = step_memory(model, [replace(shape, samples=2 * shape.samples) for shape in shapes], dtype)
    samples = sum(shape.samples for shape in shapes)
    grown = StepMemory((twice.saved - once.saved) / samples, (twice.passing - once.passing) / samples, 0.0, 0.0)
    return Line(samples, once, grown)


def step_memory(model: MMDiT, shapes: Sequence[Shape], dtype: torch.dtype | None) -> StepMemory:
    """Follows one forward and backward; takes seconds and no memory, whatever the model's size.

    Blocks of one kind take the same: two models are followed for each kind, with one of its blocks and with two.

    Args:
        model: on the meta device; its forward may recompute activations. It is not changed.
        shapes: the micro-step.
        dtype: of autocast; None computes in fp32.
    """
    *inner, last = model.blocks
    kinds: dict[bool, list[nn.Module]] = {}
    for block in inner:
        assert isinstance(block, MMDiTBlock)
        kinds.setdefault(block.visual.own is not None, []).append(block)
    whole = model.blocks
    try:
        firsts = [blocks[0] for blocks in kinds.values()]
        base = _followed(model, [*firsts, last], shapes, dtype)
        total = base
        for blocks in kinds.values():
            if len(blocks) > 1:
                two = _followed(model, [*firsts, blocks[1], last], shapes, dtype)
                one = StepMemory(
                    two.saved - base.saved, two.passing, two.copies - base.copies, two.gradients - base.gradients
                )
                total = total + one.times(len(blocks) - 1)
        return total
    finally:
        model.blocks = whole


def _followed(
    model: MMDiT, blocks: Sequence[nn.Module], shapes: Sequence[Shape], dtype: torch.dtype | None
) -> StepMemory:
    """One step of the model with these blocks only."""
    model.blocks = nn.ModuleList(blocks)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    real = dict(model.named_parameters())
    with mode:
        fakes = {name: nn.Parameter(torch.empty(p.shape, device=HOST)) for name, p in real.items()}
    _swap(model, fakes)
    try:
        return _tracked(model, shapes, dtype, mode)
    finally:
        _swap(model, real)


def _tracked(model: MMDiT, shapes: Sequence[Shape], dtype: torch.dtype | None, mode: FakeTensorMode) -> StepMemory:
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
    with tracker:
        with torch.autocast(HOST, dtype or torch.bfloat16, enabled=dtype is not None):
            outputs = model(z, t, Conditioning(text))
            loss = sum((out.float().square().mean() for out in outputs), torch.zeros(()))
            del outputs
        weights = _bytes(tracker, "current", "PARAM")
        saved = _bytes(tracker, "current", "Total") - weights
        loss.backward()  # type: ignore[no-untyped-call]
    # A block that is computed again casts its weights again, and keeps no copy of them.
    again = [block for block in model.blocks if "forward" in block.__dict__]
    matrices = _matrices(model) - sum(_matrices(block) for block in again)
    copies = 0 if dtype is None else 2 * matrices
    peak = _bytes(tracker, "peak", "Total") - weights
    return StepMemory(saved, peak - max(saved, weights), copies, weights)


def _matrices(module: nn.Module) -> int:
    """Numbers of the weights that autocast casts."""
    return sum(p.numel() for p in module.parameters() if p.ndim > 1)


def _bytes(tracker: MemTracker, when: str, kind: str) -> int:
    found = tracker.get_tracker_snapshot(when)[torch.device(HOST)]
    return next(int(value) for name, value in found.items() if str(name).split(".")[-1] == kind)


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
    aside: float = 0.0
    """At the peak of what comes between steps: encoding, previews, saving."""

    @property
    def total(self) -> float:
        """All that there is at the worst moment, in a step or between two."""
        lasting = self.weights + self.moments + self.averages + self.frozen
        return lasting + max(self.step + self.gathered, self.aside)


def rank_memory(
    model: MMDiT,
    step: StepMemory,
    moments: float,
    averages: int,
    shards: int,
    half: bool,
    frozen: float,
    aside: float = 0.0,
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
        aside: bytes at the peak of what comes between steps.
    """
    weights = FP32 * sum(p.numel() for p in model.parameters())
    own = step.peak if shards == 1 else max(step.saved - step.copies, weights / shards) + step.passing
    # Two blocks are gathered at a time, one of which is computed with; its gradients are whole before they are cut.
    largest = max(sum(p.numel() for p in block.parameters()) for block in model.blocks)
    gathered = 0.0 if shards == 1 else largest * (2 * (2 if half else FP32) + FP32)
    return RankMemory(weights / shards, moments / shards, averages * weights / shards, own, gathered, frozen, aside)
