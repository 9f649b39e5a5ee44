"""A training step against diffusers', and against its matrix products: groups `step` and `limit` of tools/bench.py.

Depth 8 (74 M parameters), 4 pictures of 32 x 32 latents (256 tokens) with captions of 77 tokens of width 4096. Both
networks have the same weights. The example's loop is that of diffusers' train_dreambooth_sd3.py with its default
settings: AdamW(1e-4, eps 1e-8, weight decay 1e-4) as `torch.optim.AdamW` makes it, autocast as accelerate's, gradients
clipped to 1, EMA off; ours has FlowObjective, fused AdamW, the norm's one pass and the EMA that mmflow's runs have.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from bench_measure import Figure, Setting, interleaved
from bench_models import Pair, Work, pair, same, work
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmflow.batch import Conditioning
from mmflow.flow.objective import FlowObjective
from mmflow.train.optim import AdamW
from mmflow.train.parallel import Parallel, lay_out

DEPTH, SAMPLES, SIDE, WORDS = 8, 4, 32, 77
REACH = {"fp32": 1.10, "bf16": 1.25}
LIMIT = {"fp32": 1.25, "bf16": 1.45}
EXAMPLE = 1.6
aten = torch.ops.aten


def step(setting: Setting) -> list[Figure]:
    """Forward and backward; the same with AdamW; and a whole step against the example's: plain, and compiled.

    Compiled are our blocks, as `model.parallel.compile` does it, against diffusers as its example runs it; and then
    diffusers' blocks too.
    """
    both = pair(DEPTH, setting.device, qk_norm=True)
    given = work(SAMPLES, SIDE, WORDS, both.ours, setting.device)
    with torch.no_grad():
        same(given.ours(both.ours), given.theirs(both.theirs), 1e-3)
    figures = []
    for way in ("", ", ours compiled", ", both compiled"):
        if way == ", ours compiled":
            lay_out(both.ours, Parallel(compile=True), None, None)
        if way == ", both compiled":
            for block in both.theirs.transformer_blocks:
                block.compile(dynamic=True)
        for precision in setting.precisions:
            figures += compared(setting, precision, both, given, way)
    return figures


def compared(setting: Setting, precision: str, both: Pair, given: Work, way: str) -> list[Figure]:
    """The three figures of one precision."""
    figures = []
    about: dict[str, Any] = {"flops": given.flops(both.ours), "peak": setting.peak(precision).flops}
    for optimizer, what in ((None, "forward, backward"), ("fused", "the same and fused AdamW")):
        sides = (
            passes(setting, precision, lambda: given.ours(both.ours), both.ours, optimizer),
            passes(setting, precision, lambda: given.theirs(both.theirs), both.theirs, optimizer),
        )
        ours, peer = interleaved(setting, *sides)
        figures.append(Figure(f"{what}{way}, {precision}", ours, peer, REACH[precision], **about))
    ours, peer = interleaved(setting, our_loop(setting, precision, both, given), example(setting, precision, both))
    figures.append(Figure(f"a whole step, against the example's{way}, {precision}", ours, peer, EXAMPLE, **about))
    return figures


def passes(
    setting: Setting, precision: str, forward: Callable[[], Tensor], model: nn.Module, optimizer: str | None
) -> Callable[[], None]:
    """Forward, backward and, if asked, an update."""
    updater = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True) if optimizer else None

    def run() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        with setting.autocast(precision):
            out = forward()
        out.float().square().mean().backward()
        if updater is not None:
            updater.step()

    return run


def our_loop(setting: Setting, precision: str, both: Pair, given: Work) -> Callable[[], None]:
    """What a run of mmflow does between two batches: objective, backward, clipping, fused AdamW, average of weights."""
    model, objective = both.ours, FlowObjective()
    optimizer = AdamW(lr=1e-6).build(model)
    average = [p.detach().clone() for p in model.parameters()]
    u = torch.rand(SAMPLES, device=setting.device)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with setting.autocast(precision):
            loss, _ = objective(
                model, (given.x0[:, :, None],), Conditioning(given.features), u, (given.eps[:, :, None],)
            )
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 1e-4)

    return run


def example(setting: Setting, precision: str, both: Pair) -> Callable[[], None]:
    """One step of train_dreambooth_sd3.py, from latents and text features on."""
    model, given = both.theirs, work(SAMPLES, SIDE, WORDS, both.ours, setting.device)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, betas=(0.9, 0.999), weight_decay=1e-4, eps=1e-8)

    def run() -> None:
        noise = torch.randn_like(given.x0)
        u = compute_density_for_timestep_sampling("logit_normal", SAMPLES, logit_mean=0.0, logit_std=1.0)
        indices = (u * scheduler.config.num_train_timesteps).long()
        timesteps = scheduler.timesteps[indices].to(setting.device)
        sigmas = scheduler.sigmas[indices].to(setting.device).view(-1, 1, 1, 1)
        noisy = (1.0 - sigmas) * given.x0 + sigmas * noise
        with setting.autocast(precision):
            predicted = model(
                hidden_states=noisy,
                timestep=timesteps,
                encoder_hidden_states=given.context,
                pooled_projections=given.pooled,
                return_dict=False,
            )[0]
        predicted = predicted.float()  # accelerate turns a prepared model's outputs into fp32
        predicted = predicted * (-sigmas) + noisy
        weighting = compute_loss_weighting_for_sd3("logit_normal", sigmas=sigmas)
        error = (weighting.float() * (predicted.float() - given.x0.float()) ** 2).reshape(SAMPLES, -1)
        error.mean(1).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def limit(setting: Setting) -> list[Figure]:
    """The step's forward and backward against its matrix products alone."""
    both = pair(DEPTH, setting.device, qk_norm=True)
    given = work(SAMPLES, SIDE, WORDS, both.ours, setting.device)
    figures = []
    for precision in setting.precisions:
        run = passes(setting, precision, lambda: given.ours(both.ours), both.ours, None)
        floor, count = products(setting, precision, both.ours, run)
        ours, bare = interleaved(setting, run, floor)
        about: dict[str, Any] = {"flops": given.flops(both.ours), "peak": setting.peak(precision).flops}
        note = f"the floor is {count} products"
        figures.append(
            Figure(f"a step over its products, {precision}", ours, bare, LIMIT[precision], "within", **about, note=note)
        )
    return figures


class Recorder(TorchDispatchMode):
    """Lists the matrix products that a step asks for: function, and shape, stride and dtype of each operand."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, list[tuple[Any, Any, torch.dtype]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in (aten.mm.default, aten.addmm.default, aten.bmm.default):
            operands = args[1:] if func is aten.addmm.default else args
            kind = aten.bmm.default if func is aten.bmm.default else aten.mm.default
            self.found.append((kind, [(x.shape, x.stride(), x.dtype) for x in operands]))
        return out


def products(
    setting: Setting, precision: str, model: nn.Module, run: Callable[[], None]
) -> tuple[Callable[[], None], int]:
    """A function that takes the step's products and nothing else, and how many they are.

    Those of attention are added as what they are: two products forward and four backward of each head's tokens,
    whatever kernel the step itself uses.
    """
    with Recorder() as recorder:
        run()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    tokens, heads = (SIDE // 2) ** 2 + WORDS, DEPTH
    listed = [entry for entry in recorder.found if entry[0] is aten.mm.default]
    square, tall = ((SAMPLES * heads, tokens, tokens), (SAMPLES * heads, tokens, 64))
    across, flat = (SAMPLES * heads, 64, tokens), (SAMPLES * heads * tokens, 64)
    del flat
    for left, right in ((tall, across), (square, tall), (square, tall), (tall, across), (square, tall), (square, tall)):
        entry = (aten.bmm.default, [(torch.Size(s), contiguous(s), dtype) for s in (left, right)])
        listed += [entry] * DEPTH
    pool: dict[Any, Tensor] = {}

    def operand(shape: torch.Size, stride: tuple[int, ...], kind: torch.dtype) -> Tensor:
        key = (tuple(shape), tuple(stride), kind)
        if key not in pool:
            extent = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
            pool[key] = torch.randn(extent, device=setting.device).to(kind).as_strided(shape, stride)
        return pool[key]

    calls = [(kind, [operand(*about) for about in operands]) for kind, operands in listed]

    def floor() -> None:
        for kind, operands in calls:
            kind(*operands)

    return floor, len(calls)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a dense tensor."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


@contextmanager
def profiled(setting: Setting) -> Iterator[Any]:
    """torch's profiler around a work, for the table that says where its time goes."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if setting.device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile, nullcontext():
        yield profile


def where_time_goes(setting: Setting, rows: int = 16) -> str:
    """The longest operations of a step, ours and theirs in each precision, as a table of text."""
    return "\n\n".join(_longest_operations(setting, precision, rows) for precision in setting.precisions)


def _longest_operations(setting: Setting, precision: str, rows: int) -> str:
    both = pair(DEPTH, setting.device, qk_norm=True)
    given = work(SAMPLES, SIDE, WORDS, both.ours, setting.device)
    texts = []
    for name, forward, model in (
        ("ours", lambda: given.ours(both.ours), both.ours),
        ("diffusers", lambda: given.theirs(both.theirs), both.theirs),
    ):
        run = passes(setting, precision, forward, model, None)
        run()
        with profiled(setting) as profile:
            run()
        events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
        total = sum(event.self_cpu_time_total for event in events)
        lines = [
            f"  {e.self_cpu_time_total / total:6.1%} {e.self_cpu_time_total / 1e3:8.1f} ms {e.count:5d} x  {e.key}"
            for e in events[:rows]
        ]
        texts.append(f"{name}, {precision}: {total / 1e3:.0f} ms of processor time\n" + "\n".join(lines))
    return "\n\n".join(texts)
