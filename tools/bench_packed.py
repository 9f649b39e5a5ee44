"""Packed tokens against the same network as a textbook would write it: group `packed` of tools/bench.py.

Forward and backward of the same weights on both sides.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from bench_measure import Figure, Setting, interleaved
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
        torch.tensor(lengths, device="cpu")[:, None],
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


def passes(work: Callable[[], Tensor], model: MMDiT) -> None:
    """One forward and backward."""
    model.zero_grad(set_to_none=True)
    work().backward()


def packed(setting: Setting) -> list[Figure]:
    """All figures of the group."""
    with setting.device:
        model = MMDiT(4, 3, patch_size=4, video_patch_size=None, base_size=32, **WIDTHS)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        z, t, features = torch.randn(2, 3, 1, 32, 32), torch.rand(2), text([8, 8])
        dense = dense_forward(model, z, t, features.context.view(2, 8, -1), features.pooled)
        torch.testing.assert_close(model((z,), t, Conditioning(features))[0], dense, atol=1e-4, rtol=1e-4)
        figures = []
        for precision in setting.precisions:
            for build in (equal_shapes, small_mix):
                each = build(model, setting.autocast(precision))
                sides = (lambda e=each: passes(e.ours, model)), (lambda e=each: passes(e.peer, model))
                figures.append(Figure(f"{each.name}, {precision}", *interleaved(setting, *sides), each.reach))
    return figures
