"""How time and memory grow: group `growth` of tools/bench.py.

Forward and backward. Tokens and samples: depth 2, width 128. Depth: blocks of width 256, from two to twenty-four of
them, for MMDiT's own width grows with its depth. Recomputation: depth 8, 4 pictures of 256 tokens. Captions have 16
tokens.

Each size is measured in turn with a smaller one, whose seconds are scaled by what the larger has more of matrix
products: that is tokens, but for the last block's context, which no MLP follows. Attention's share is taken out at its
place: a backend that adds q, k and v instead of comparing them. How much it is of the longest is told beside. Memory is
followed on tensors without storage, which is exact.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from bench_measure import Figure, Setting, interleaved
from torch import Tensor, nn

from mmflow.batch import Conditioning, TextFeatures
from mmflow.model.attention import AbstractAttention, SdpaAttention
from mmflow.model.mmdit import MMDiT
from mmflow.planning.flops import Load, step_flops
from mmflow.planning.memory import Shape, step_memory
from mmflow.train.parallel import Parallel, lay_out

WORDS, DEPTH, WIDE, DEEP = 16, 2, 4, 8
FLAT, SAVED, DEARER = 1.10, 0.60, 1.35
TOKENS = (256, 1024, 4096, 16384)
"""Of one sample; a step holds as many samples as make the last."""
SAMPLES = (1, 4, 16, 64)
"""Of 256 tokens."""
BLOCKS = (2, 4, 8, 16, 24)


@final
@dataclass(frozen=True)
class WithoutAttention(AbstractAttention):
    """All that is linear in the tokens stays: queries, keys and values are made, normalised and get gradients."""

    def dense(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q + k + v

    def ragged(self, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, key_lengths: Tensor | None = None) -> Tensor:
        return q + k + v


@dataclass(frozen=True)
class Step:
    """Samples of `tokens` visual tokens through a network."""

    model: MMDiT
    samples: int
    tokens: int

    @property
    def side(self) -> int:
        """Height and width of the latents."""
        return 2 * round(self.tokens**0.5)

    @property
    def products(self) -> int:
        """FLOPs of all but attention."""
        return step_flops(self.model, [Load(self.samples, 1, self.tokens, WORDS)]).products

    @property
    def kept(self) -> float:
        """Bytes kept for the backward, of a model on the meta device."""
        return step_memory(self.model, [Shape(self.samples, (1, self.side, self.side), WORDS)], None).saved

    def passes(self, device: torch.device) -> Callable[[], None]:
        """Forward and backward."""
        z = torch.randn(self.samples, 4, 1, self.side, self.side, device=device)
        t = torch.rand(self.samples, device=device)
        text = TextFeatures(
            torch.randn(self.samples * WORDS, 64, device=device),
            torch.full((self.samples, 1), WORDS),
            torch.randn(self.samples, 32, device=device),
        )

        def run() -> None:
            for parameter in self.model.parameters():
                parameter.grad = None
            (out,) = self.model((z,), t, Conditioning(text))
            out.square().mean().backward()

        return run


def build(
    depth: int,
    device: torch.device,
    recompute: str = "none",
    blocks: int | None = None,
    attention: AbstractAttention | None = None,
) -> MMDiT:
    """A model of pictures of 4 channels, with blocks of its own width left out or repeated."""
    with device:
        model = MMDiT(depth, 4, 64, 32, 2, None, 32)
    if blocks is not None:
        inner, last = model.blocks[0], model.blocks[-1]
        model.blocks = nn.ModuleList([*(copy.deepcopy(inner) for _ in range(blocks - 1)), last])
    model.attention = attention or SdpaAttention()
    lay_out(model, Parallel(recompute=recompute), None, None)  # type: ignore[arg-type]
    return model


def growth(setting: Setting) -> list[Figure]:
    """Tokens per sample, samples per step, depth, and recomputation."""
    return [*by_tokens(setting), *by_samples(setting), *by_depth(setting), *memory_lines(), *recomputed(setting)]


def flat(setting: Setting, name: str, larger: Step, smaller: Step) -> Figure:
    """The larger's seconds against the smaller's, scaled."""
    ours, base = interleaved(setting, larger.passes(setting.device), smaller.passes(setting.device))
    scale = larger.products / smaller.products
    return Figure(f"{name}: time per token, attention aside", ours, tuple(scale * s for s in base), FLAT, "within")


def by_tokens(setting: Setting) -> list[Figure]:
    """Of a sample, at equal tokens of a step; against the shortest. And what attention adds to the longest."""
    model = build(DEPTH, setting.device, attention=WithoutAttention())
    first, *rest = (Step(model, TOKENS[-1] // tokens, tokens) for tokens in TOKENS)
    figures = [flat(setting, f"{step.tokens} tokens a sample over {first.tokens}", step, first) for step in rest]
    with_attention = Step(build(DEPTH, setting.device), 1, TOKENS[-1]).passes(setting.device)
    ours, without = setting.seconds(with_attention), setting.seconds(rest[-1].passes(setting.device))
    told = f"{TOKENS[-1]} tokens a sample: with attention over without, once"
    return [*figures, Figure(told, (ours,), (without,), 0.0, "told")]


def by_samples(setting: Setting) -> list[Figure]:
    """Of 256 tokens each; against the number before."""
    model = build(DEPTH, setting.device, attention=WithoutAttention())
    steps = [Step(model, samples, TOKENS[0]) for samples in SAMPLES]
    return [
        flat(setting, f"{larger.samples} samples over {smaller.samples}", larger, smaller)
        for smaller, larger in pairwise(steps)
    ]


def by_depth(setting: Setting) -> list[Figure]:
    """Blocks of one width; against the fewest."""
    first, *rest = (
        Step(build(WIDE, setting.device, blocks=blocks, attention=WithoutAttention()), 4, TOKENS[0])
        for blocks in BLOCKS
    )
    return [flat(setting, f"{len(step.model.blocks)} blocks over {BLOCKS[0]}", step, first) for step in rest]


def memory_lines() -> list[Figure]:
    """Bytes instead of seconds: what is kept for the backward, against a line through the origin."""
    meta = torch.device("meta")
    model = build(DEPTH, meta)
    tokens = [(f"{n} tokens a sample", Step(model, 1, n), n + WORDS) for n in (TOKENS[0], TOKENS[-1])]
    samples = [(f"{n} samples", Step(model, n, TOKENS[0]), n) for n in (SAMPLES[0], SAMPLES[-1])]
    blocks = [(f"{n} blocks", Step(build(WIDE, meta, blocks=n), 4, TOKENS[0]), n) for n in (BLOCKS[0], BLOCKS[-1])]
    figures = []
    for (before, smaller, least), (after, larger, most) in (tokens, samples, blocks):
        name, linear = f"{after} over {before.split()[0]}: bytes kept for the backward", smaller.kept * most / least
        figures.append(Figure(name, (larger.kept / 1e6,), (linear / 1e6,), FLAT, "within", unit="MB"))
    return figures


def recomputed(setting: Setting) -> list[Figure]:
    """Blocks computed again in the backward: what that saves, and what it costs."""
    meta, figures = torch.device("meta"), []
    kept = Step(build(DEEP, meta), 4, TOKENS[0]).kept
    for how in ("block", "selective"):
        saved = Step(build(DEEP, meta, how), 4, TOKENS[0]).kept
        again, plain = (Step(build(DEEP, setting.device, each), 4, TOKENS[0]) for each in (how, "none"))
        pairs = interleaved(setting, again.passes(setting.device), plain.passes(setting.device))
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
