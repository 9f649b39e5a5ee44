"""What mmflow costs and saves, measured against the plain way in the same run.

    python tools/bench.py --group packed [--json FILE]    packed tokens against plain dense batches
    python tools/bench.py --group data                    the loader against bare decoding

Both sides do the same work in turn (packed: with the same weights, forward and backward), so that a noisy machine
cancels out; medians and their ratio are what to read. Exit status 1 says that a figure was missed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from bench_data import data
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmflow.batch import Conditioning, TextFeatures
from mmflow.model.block import Stream
from mmflow.model.mmdit import MMDiT
from mmflow.model.segments import NORM_EPS

WIDTHS = {"context_width": 128, "pooled_width": 96}


@dataclass(frozen=True)
class Comparison:
    """Two ways to do one work, and how many times faster the first must be at least."""

    name: str
    ours: Callable[[], Tensor]
    peer: Callable[[], Tensor]
    reach: float


def dense_forward(model: MMDiT, z: Tensor, t: Tensor, context: Tensor, pooled: Tensor) -> Tensor:
    """The same network as a textbook would write it, for one shape and captions padded to one length: B N D
    throughout.
    """

    def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale[:, None]) + shift[:, None]

    def qkv(stream: Stream, x: Tensor) -> tuple[Tensor, ...]:
        q, k, v = stream.qkv(x).unflatten(-1, (3, stream.num_heads, 64)).unbind(2)
        return stream.norm_q(q), stream.norm_k(k), v

    patchifier = model.patchifier(z.shape[2])
    x, c = patchifier.tokenise(z), model.context_embedding(context)
    y = model.time_embedding(t) + model.pooled_embedding(pooled)
    for block in model.blocks:
        mods, context_mods = block.visual.modulations(y), block.context.modulations(y)
        parts = zip(
            qkv(block.context, modulate(c, *context_mods[:2])), qkv(block.visual, modulate(x, *mods[:2])), strict=True
        )
        q, k, v = (torch.cat(pair, 1).transpose(1, 2) for pair in parts)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        for stream, m, attended in (
            (block.visual, mods, out[:, c.shape[1] :]),
            (block.context, context_mods, out[:, : c.shape[1]]),
        ):
            if stream.last:
                continue
            tokens = x if stream is block.visual else c
            tokens = tokens + m[2][:, None] * stream.proj(attended)
            tokens = tokens + m[5][:, None] * stream.mlp(modulate(tokens, m[3], m[4]))
            x, c = (tokens, c) if stream is block.visual else (x, tokens)
    shift, scale = model.final_modulation(F.silu(y)).chunk(2, 1)
    return patchifier.detokenise(modulate(x, shift, scale), tuple(z.shape[2:]))


def text(lengths: list[int]) -> TextFeatures:
    """Random features of captions with these many tokens."""
    return TextFeatures(
        torch.randn(sum(lengths), WIDTHS["context_width"]),
        torch.tensor(lengths)[:, None],
        torch.randn(len(lengths), WIDTHS["pooled_width"]),
    )


def equal_shapes(model: MMDiT, autocast: torch.autocast) -> Comparison:
    """32 pictures of 64 tokens with captions of 8: a packed model must not cost more than a dense one."""
    z, t, features = torch.randn(32, 3, 1, 32, 32), torch.rand(32), text([8] * 32)
    padded = features.context.view(32, 8, -1)

    def ours() -> Tensor:
        with autocast:
            (out,) = model((z,), t, Conditioning(features))
        return out.square().mean()

    def peer() -> Tensor:
        with autocast:
            return dense_forward(model, z, t, padded, features.pooled).square().mean()

    return Comparison("equal shapes, against a plain dense model", ours, peer, reach=0.95)


def small_mix(model: MMDiT, autocast: torch.autocast) -> Comparison:
    """64 small pictures of 16 shapes and captions of 3 to 18 tokens, against padding all of them to the largest."""
    shapes = [(4 * h, 4 * w) for h in (3, 4, 5, 6) for w in (3, 4, 5, 6)]
    groups = tuple(torch.randn(4, 3, 1, *shape) for shape in shapes)
    features, t = text([3 + 5 * i % 16 for i in range(64)]), torch.rand(64)
    z, longest = torch.randn(64, 3, 1, 24, 24), torch.randn(64, 18, WIDTHS["context_width"])

    def ours() -> Tensor:
        with autocast:
            out = model(groups, t, Conditioning(features))
        return torch.cat([o.flatten() for o in out]).square().mean()

    def peer() -> Tensor:
        with autocast:
            return dense_forward(model, z, t, longest, features.pooled).square().mean()

    return Comparison("64 small samples of 16 shapes, against padding", ours, peer, reach=1.0)


def seconds(work: Callable[[], Tensor], model: MMDiT) -> float:
    """One forward and backward."""
    model.zero_grad(set_to_none=True)
    start = time.perf_counter()
    work().backward()
    return time.perf_counter() - start


def measure(comparison: Comparison, model: MMDiT, rounds: int) -> dict[str, float]:
    """Interleaved medians in milliseconds, and the median ratio peer / ours with its quartiles."""
    for work in (comparison.ours, comparison.peer):
        seconds(work, model)
    pairs = [(seconds(comparison.ours, model), seconds(comparison.peer, model)) for _ in range(rounds)]
    low, ratio, high = statistics.quantiles([peer / ours for ours, peer in pairs], n=4)
    ours, peer = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    return {"ours_ms": ours, "peer_ms": peer, "ratio": ratio, "low": low, "high": high, "reach": comparison.reach}


def packed(rounds: int) -> dict[str, dict[str, float]]:
    """All figures of the group, by name."""
    model = MMDiT(4, 3, patch_size=4, video_patch_size=None, base_size=32, **WIDTHS)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    z, t, features = torch.randn(2, 3, 1, 32, 32), torch.rand(2), text([8, 8])
    dense = dense_forward(model, z, t, features.context.view(2, 8, -1), features.pooled)
    torch.testing.assert_close(model((z,), t, Conditioning(features))[0], dense, atol=1e-4, rtol=1e-4)
    figures = {}
    for precision in ("fp32", "bf16"):
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        for build in (equal_shapes, small_mix):
            comparison = build(model, autocast)
            figures[f"{comparison.name}, {precision}"] = measure(comparison, model, rounds)
    return figures


def main() -> int:
    """Measures, prints a table, and says by its status whether every figure was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", choices=["packed", "data"], default="packed", help="which figures")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved pairs of runs; at least 7")
    parser.add_argument("--json", help="write the figures here as well")
    args = parser.parse_args()
    if args.rounds < 7:
        parser.error(f"--rounds must be at least 7 for a median to mean something, got {args.rounds}")
    torch.manual_seed(0)
    figures = {"packed": packed, "data": data}[args.group](args.rounds)
    work = {"packed": "forward and backward", "data": "reading"}[args.group]
    table = Table(title=f"{work}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for column in ("work", "ours, ms", "peer, ms", "times faster (quartiles)", "reach"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for name, f in figures.items():
        ratio = f"{f['ratio']:.2f} ({f['low']:.2f} - {f['high']:.2f})"
        table.add_row(name, f"{f['ours_ms']:.0f}", f"{f['peer_ms']:.0f}", ratio, f">= {f['reach']:.2f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(figures, file, indent=1)
    return int(any(f["ratio"] < f["reach"] for f in figures.values()))


if __name__ == "__main__":
    sys.exit(main())
