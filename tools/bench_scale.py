"""How time and memory grow: group `growth` of tools/bench.py.

Forward and backward, width 128 (depth 2) for tokens and samples, width 64 d for depth d with tokens chosen to keep
steps short. Each length is measured in turn with the shortest, so `ours` is the longer's seconds and `peer` what they
would be if a token cost as much as it does there, plus attention's own share. That share is taken out by measurement:
attention alone, forward and backward, on tensors of the same shapes. Memory is followed on tensors without storage,
which is exact.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from bench_measure import Figure, Setting, interleaved

from mmflow.batch import Conditioning, TextFeatures
from mmflow.model.attention import make_attention
from mmflow.model.mmdit import MMDiT
from mmflow.planning.flops import Load, step_flops
from mmflow.planning.memory import Shape, step_memory
from mmflow.train.parallel import Parallel, lay_out

WORDS = 16
FLAT, SAVED, DEARER = 1.10, 0.60, 1.35
TOKENS = (256, 1024, 4096, 16384)
SAMPLES = (1, 4, 16, 64)
DEPTHS = (2, 4, 8, 16, 24)


def build(depth: int, device: torch.device, recompute: str = "none") -> MMDiT:
    """A model of pictures of 4 channels."""
    with device:
        model = MMDiT(depth, 4, 64, 32, 2, None, 32)
    lay_out(model, Parallel(recompute=recompute), None, None)  # type: ignore[arg-type]
    return model


def passes(model: MMDiT, samples: int, side: int, device: torch.device) -> Callable[[], None]:
    """Forward and backward on pictures of side x side latents."""
    z, t = torch.randn(samples, 4, 1, side, side, device=device), torch.rand(samples, device=device)
    text = TextFeatures(
        torch.randn(samples * WORDS, 64, device=device),
        torch.full((samples, 1), WORDS),
        torch.randn(samples, 32, device=device),
    )

    def run() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        (out,) = model((z,), t, Conditioning(text))
        out.square().mean().backward()

    return run


def attention_alone(depth: int, samples: int, side: int, device: torch.device) -> Callable[[], None]:
    """The model's attention calls, forward and backward, and nothing else."""
    shape = samples, (side // 2) ** 2 + WORDS, depth, 64
    q, k, v = (torch.randn(shape, device=device, requires_grad=True) for _ in range(3))
    attention, grad = make_attention("sdpa"), torch.ones(shape, device=device)

    def run() -> None:
        for _ in range(depth):
            torch.autograd.grad(attention.dense(q, k, v), (q, k, v), grad)

    return run


def growth(setting: Setting) -> list[Figure]:
    """Tokens per sample, samples per step, depth, and recomputation."""
    return [*by_tokens(setting), *by_samples(setting), *memory_lines(), *by_depth(setting), *recomputed(setting)]


def rest(setting: Setting, depth: int, samples: int, side: int) -> tuple[list[float], int]:
    """Seconds of each repeat of all but attention, and the tokens they were for."""
    model = build(depth, setting.device)
    sides = passes(model, samples, side, setting.device), attention_alone(depth, samples, side, setting.device)
    whole, alone = interleaved(setting, *sides)
    return [a - b for a, b in zip(whole, alone, strict=True)], samples * ((side // 2) ** 2 + WORDS)


def per_token(name: str, measured: list[tuple[str, list[float], int]]) -> list[Figure]:
    """Each against the cheapest per token of those before it."""
    figures = []
    for (_, base, base_tokens), (what, longer, tokens) in pairwise(measured):
        linear = tuple(seconds * tokens / base_tokens for seconds in base)
        figures.append(Figure(f"{name} {what}: time per token, attention aside", tuple(longer), linear, FLAT, "within"))
    return figures


def by_tokens(setting: Setting) -> list[Figure]:
    """256 to 16k tokens of one sample; the shortest are taken eight at a time, or fixed costs would hide in them."""
    measured = []
    for tokens in TOKENS:
        side, samples = 2 * round(tokens**0.5), max(1, 2048 // tokens)
        measured.append((f"{tokens}", *rest(setting, 2, samples, side)))
    return per_token("tokens", measured)


def by_samples(setting: Setting) -> list[Figure]:
    """1 to 64 samples of 256 tokens."""
    return per_token("samples", [(f"{n}", *rest(setting, 2, n, 32)) for n in SAMPLES])[1:]


def by_depth(setting: Setting) -> list[Figure]:
    """Depth 2 to 24: seconds against the matrix products' own growth, for the widths grow with the depth."""
    figures = []
    before: tuple[tuple[float, ...], int] | None = None
    for depth in DEPTHS:
        model = build(depth, setting.device)
        run = passes(model, 1, 16, setting.device)
        run()
        seconds = tuple(setting.seconds(run) for _ in range(min(3, setting.repeats)))
        flops = step_flops(model, [Load(1, 1, 64, WORDS)]).total
        if before is not None:
            scaled = tuple(s * flops / before[1] for s in before[0])
            figures.append(Figure(f"depth {depth}: time per product, to the one before", seconds, scaled, FLAT, "told"))
        before = seconds, flops
        del model
    return figures


def memory_lines() -> list[Figure]:
    """Bytes instead of seconds: what is kept for the backward, against a line through the origin."""
    model, meta = build(4, torch.device("meta")), {}
    for tokens in TOKENS:
        side = 2 * round(tokens**0.5)
        meta[tokens] = float(step_memory(model, [Shape(1, (1, side, side), WORDS)], None).saved)
    figures = []
    for tokens in TOKENS[1:]:
        linear = meta[TOKENS[0]] * (tokens + WORDS) / (TOKENS[0] + WORDS)
        name = f"tokens {tokens}: bytes kept for the backward"
        figures.append(Figure(name, (meta[tokens] / 1e6,), (linear / 1e6,), FLAT, "within", unit="MB"))
    return figures


def recomputed(setting: Setting) -> list[Figure]:
    """Blocks computed again in the backward: what that saves, and what it costs."""
    shape, meta = Shape(4, (1, 32, 32), WORDS), torch.device("meta")
    kept = step_memory(build(8, meta), [shape], None).saved
    figures = []
    for how in ("block", "selective"):
        saved = step_memory(build(8, meta, how), [shape], None).saved
        plain, again = build(4, setting.device), build(4, setting.device, how)
        sides = passes(again, 4, 32, setting.device), passes(plain, 4, 32, setting.device)
        pairs = interleaved(setting, *sides)
        kind = "within" if how == "block" else "told"
        figures.append(Figure(f"recompute {how}: time", *pairs, DEARER, kind))  # type: ignore[arg-type]
        memory = Figure(
            f"recompute {how}: bytes kept for the backward",
            (saved / 1e6,),
            (kept / 1e6,),
            1 - SAVED,
            kind,  # type: ignore[arg-type]
            unit="MB",
        )
        figures.append(memory)
    return figures
