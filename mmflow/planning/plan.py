"""What a run of a configuration costs on so many accelerators, and how it fits."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from mmflow.model.mmdit import MMDiT
from mmflow.planning.flops import Flops, load_of, step_flops
from mmflow.planning.hardware import GB, Gpu
from mmflow.planning.memory import FP32, Line, RankMemory, Shape, memory_line, rank_memory
from mmflow.train.parallel import Parallel
from mmflow.train.parallel import lay_out as lay_over

USABLE = 0.92
"""Share of an accelerator's memory that tensors get: the rest is the driver's, the libraries' and fragments."""

Recompute = Literal["none", "selective", "block"]
DEARER: dict[Recompute, float] = {"none": 1.0, "selective": 1.05, "block": 4 / 3}
"""Time of a step over that of one that computes nothing again: a block's forward is a third of what a step computes,
and what `selective` does again are no products."""


@dataclass(frozen=True)
class Job:
    """A training run, as far as its cost goes.

    Attributes:
        model: on the meta device.
        mix: the shapes of `batch` samples, in the shares in which they come.
        batch: samples of an optimizer step over all ranks.
        steps: optimizer steps; None where the run has no stated end.
        moments: bytes of optimizer state.
        averages: averages of the weights that are kept.
        frozen: bytes of frozen networks on each rank.
        half: computes in bf16.
        aside: bytes at the peak of what comes between steps: encoding, previews, saving.
    """

    model: MMDiT
    mix: tuple[Shape, ...]
    batch: int
    steps: int | None
    moments: float
    averages: int
    frozen: float
    half: bool
    aside: float = 0.0

    @property
    def weights(self) -> float:
        """Bytes of the weights in fp32."""
        return FP32 * sum(p.numel() for p in self.model.parameters())


@dataclass(frozen=True)
class Fit:
    """One way to lay a job out.

    Attributes:
        recompute: what of the blocks is computed again in the backward.
        shards: ranks that one copy of the weights is cut over; 1 is DDP.
        samples: of a micro-step on a rank.
        micro_steps: of an optimizer step.
        memory: of a rank.
        wire: bytes that a rank sends in an optimizer step.
        fits: into the accelerator's memory.
    """

    recompute: Recompute
    shards: int
    samples: int
    micro_steps: int
    memory: RankMemory
    wire: float
    fits: bool


def job_flops(job: Job) -> Flops:
    """Of one optimizer step over all ranks."""
    loads = [load_of(job.model, shape.latents, shape.samples, shape.words) for shape in job.mix]
    return step_flops(job.model, loads)


def wire_bytes(job: Job, gpus: int, shards: int, micro_steps: int) -> float:
    """Bytes that a rank sends per optimizer step.

    DDP adds up fp32 gradients once, in a ring: 2 (N - 1) / N of them. Sharded weights are gathered for forward and for
    backward of every micro-step, (S - 1) / S of them each, and gradients are scattered as fp32 once a micro-step;
    groups of ranks that each hold all weights then add up their shares.
    """
    if gpus == 1:
        return 0.0
    if shards == 1:
        return 2 * (gpus - 1) / gpus * job.weights
    apart = (shards - 1) / shards
    gathered = 2 * apart * job.weights * (0.5 if job.half else 1)
    copies = gpus // shards
    return micro_steps * (gathered + apart * job.weights) + 2 * (copies - 1) / copies * job.weights / shards


def lay_out(job: Job, line: Line, gpus: int, gpu: Gpu, shards: int, recompute: Recompute = "none") -> Fit:
    """The largest micro-step that fits; one sample where none does.

    Args:
        job: what is to be laid out.
        line: a micro-step's memory.
        gpus: ranks.
        gpu: of each.
        shards: ranks that one copy of the weights is cut over.
        recompute: what `line` computes again.
    """
    each = max(1, math.ceil(job.batch / gpus))
    micro_steps = 1
    while True:
        samples = math.ceil(each / micro_steps)
        memory = rank_memory(
            job.model, line.of(samples), job.moments, job.averages, shards, job.half, job.frozen, job.aside
        )
        fits = memory.total <= USABLE * gpu.memory
        if fits or samples == 1:
            return Fit(
                recompute, shards, samples, micro_steps, memory, wire_bytes(job, gpus, shards, micro_steps), fits
            )
        micro_steps *= 2


def ways(job: Job, lines: Mapping[Recompute, Line], gpus: int, gpu: Gpu, node: int = 8) -> list[Fit]:
    """DDP, sharding inside a node, and over all ranks, as far as these differ, each with every way to recompute."""
    layouts = sorted({1, min(node, gpus), gpus})
    return [
        lay_out(job, line, gpus, gpu, shards, recompute)
        for shards in layouts
        if gpus % shards == 0
        for recompute, line in lines.items()
    ]


def seconds(job: Job, fit: Fit, gpus: int, gpu: Gpu, mfu: float) -> float:
    """Of an optimizer step: what it computes, at a share `mfu` of the peak, or what it sends, whichever is longer."""
    in_mix = sum(shape.samples for shape in job.mix)
    computing = job_flops(job).total * job.batch / in_mix / (gpus * gpu.flops * mfu) * DEARER[fit.recompute]
    return max(computing, fit.wire / gpu.link)


def best(job: Job, fits: Sequence[Fit], gpus: int, gpu: Gpu, mfu: float) -> Fit | None:
    """The fastest that fits; of equally fast ones that with the fewest micro-steps, and then the least on the wire."""
    fitting = [fit for fit in fits if fit.fits]
    return min(
        fitting,
        key=lambda fit: (seconds(job, fit, gpus, gpu, mfu), fit.micro_steps, fit.wire),
        default=None,
    )


def least_ranks(job: Job, line: Line, gpus: int, gpu: Gpu) -> int | None:
    """The fewest ranks, `gpus` doubled as often as needed, that can hold one sample each when all share one copy of the
    weights; None up to 16,384.

    Args:
        job: what is to be laid out.
        line: a micro-step's memory, with what saves most of it.
        gpus: ranks there are.
        gpu: of each.
    """
    ranks = gpus
    while ranks < 16384:
        ranks *= 2
        memory = rank_memory(job.model, line.of(1), job.moments, job.averages, ranks, job.half, job.frozen, job.aside)
        if memory.total <= USABLE * gpu.memory:
            return ranks
    return None


@contextmanager
def recomputing(model: MMDiT, recompute: Recompute) -> Iterator[None]:
    """Inside, the model's blocks compute again what a run with that setting would."""
    lay_over(model, Parallel(recompute=recompute), None, None)
    try:
        yield
    finally:
        for block in model.blocks:
            block.__dict__.pop("forward", None)


def job_line(job: Job, recompute: Recompute = "none") -> Line:
    """Memory of a micro-step of the job's mix."""
    with recomputing(job.model, recompute):
        return memory_line(job.model, job.mix, torch.bfloat16 if job.half else None)


def job_lines(job: Job) -> dict[Recompute, Line]:
    """The same for every way to recompute."""
    return {recompute: job_line(job, recompute) for recompute in DEARER}


def saved_bytes(job: Job) -> float:
    """Of a checkpoint: weights, moments and averages."""
    return job.weights + job.moments + job.averages * job.weights


def cache_bytes(job: Job, widths: Sequence[int]) -> float:
    """Bytes that the caches of one average sample take: latents' mean and log-variance, and text features, in half
    precision."""
    total = sum(shape.samples for shape in job.mix)
    latents = sum(s.samples * 2 * 2 * job.model.in_channels * math.prod(s.latents) for s in job.mix)
    words = sum(s.samples * s.words for s in job.mix) * 2 * sum(widths)
    return (latents + words) / total


def gigabytes(number: float) -> str:
    """In units of 10^9 bytes."""
    return f"{number / GB:.1f} GB"
