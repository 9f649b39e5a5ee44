"""Names and forms of an MM-DiT's tensors in the two published layouts, beside our own.

`diffusers`: the folder `transformer/` of a diffusers model (SD3Transformer2DModel). `single-file`: the original files,
whose names stand under `model.diffusion_model.` (Stability-AI/sd3.5, mmditx.py). The numbers are the same; the names,
the fusion of q, k and v, and the order of two halves are not: where a modulation has a shift and a scale only,
diffusers stores the scale first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LayoutName = Literal["diffusers", "single-file"]
PREFIX = "model.diffusion_model."
"""Of the network's tensors in a single file."""


@dataclass(frozen=True)
class Shape:
    """What of an MM-DiT decides which tensors it has and how large they are.

    Attributes:
        depth: number of blocks.
        width: model width D.
        in_channels: channels that the patches are cut from; 2 C + 1 with a mask and known latents.
        out_channels: channels of the output.
        patch_size: height and width of a patch.
        context_width: width of the context tokens.
        pooled_width: width of the pooled text features.
        qk_norm: RMSNorm on queries and keys.
        dual_blocks: so many first blocks have a second attention.
        table: side of the position table in patches; None for none.
    """

    depth: int
    width: int
    in_channels: int
    out_channels: int
    patch_size: int
    context_width: int
    pooled_width: int
    qk_norm: bool
    dual_blocks: int
    table: int | None


@dataclass(frozen=True)
class Rule:
    """One tensor of ours, and the one, or three for q, k and v, that hold the same numbers in a published layout."""

    ours: str
    theirs: tuple[str, ...]
    form: Literal["same", "halves", "patches", "table"] = "same"
    """halves: scale and shift change places; patches: a convolution's weight; table: of positions, with a leading 1."""

    def to_ours(self, tensors: list[Tensor]) -> Tensor:
        """Our tensor from theirs, in the order of `theirs`."""
        x = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        if self.form == "halves":
            return torch.cat(x.chunk(2)[::-1])
        if self.form == "patches":
            return x.flatten(1)
        if self.form == "table":
            side = round(x.shape[1] ** 0.5)
            return x.view(side, side, x.shape[2])
        return x

    def to_theirs(self, x: Tensor, patch_size: int) -> dict[str, Tensor]:
        """Their tensors from ours."""
        if self.form == "halves":
            x = torch.cat(x.chunk(2)[::-1])
        elif self.form == "patches":
            x = x.view(len(x), -1, patch_size, patch_size)
        elif self.form == "table":
            x = x.flatten(0, 1)[None]
        return dict(zip(self.theirs, x.chunk(len(self.theirs)), strict=True))


def rules(shape: Shape, layout: LayoutName) -> list[Rule]:
    """All tensors of a picture model of that shape."""
    return list(_diffusers(shape) if layout == "diffusers" else _single_file(shape))


def _linear(ours: str, *theirs: str, form: Literal["same", "halves"] = "same") -> Iterator[Rule]:
    for kind in ("weight", "bias"):
        yield Rule(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs), form)


def _patches_and_table(shape: Shape, patches: str, table: str) -> Iterator[Rule]:
    yield Rule("picture_patchifier.embed.weight", (f"{patches}.weight",), "patches")
    yield Rule("picture_patchifier.embed.bias", (f"{patches}.bias",))
    if shape.table is not None:
        yield Rule("position_table", (table,), "table")


def _streams(shape: Shape) -> Iterator[tuple[int, str, bool, bool]]:
    """(block, stream, whether its context is read a last time, whether it has a second attention)."""
    for i in range(shape.depth):
        yield i, "visual", False, i < shape.dual_blocks
        yield i, "context", i == shape.depth - 1, False


def _single_file(shape: Shape) -> Iterator[Rule]:
    yield from _patches_and_table(shape, "x_embedder.proj", "pos_embed")
    yield from _linear("picture_patchifier.project", "final_layer.linear")
    yield from _linear("final_modulation", "final_layer.adaLN_modulation.1")
    for ours, theirs in (("time_embedding", "t_embedder"), ("pooled_embedding", "y_embedder")):
        yield from _linear(f"{ours}.first", f"{theirs}.mlp.0")
        yield from _linear(f"{ours}.second", f"{theirs}.mlp.2")
    yield from _linear("context_embedding", "context_embedder")
    for i, stream, last, dual in _streams(shape):
        ours = f"blocks.{i}.{stream}"
        theirs = f"joint_blocks.{i}.{'x_block' if stream == 'visual' else 'context_block'}"
        yield from _linear(f"{ours}.modulation", f"{theirs}.adaLN_modulation.1")
        for own, name in (("", "attn"), (".own", "attn2"))[: 2 if dual else 1]:
            yield from _linear(f"{ours}{own}.qkv", f"{theirs}.{name}.qkv")
            if shape.qk_norm:
                yield Rule(f"{ours}{own}.norm_q.weight", (f"{theirs}.{name}.ln_q.weight",))
                yield Rule(f"{ours}{own}.norm_k.weight", (f"{theirs}.{name}.ln_k.weight",))
            if not last:
                yield from _linear(f"{ours}{own}.proj", f"{theirs}.{name}.proj")
        if not last:
            yield from _linear(f"{ours}.mlp.0", f"{theirs}.mlp.fc1")
            yield from _linear(f"{ours}.mlp.2", f"{theirs}.mlp.fc2")


def _diffusers(shape: Shape) -> Iterator[Rule]:
    yield from _patches_and_table(shape, "pos_embed.proj", "pos_embed.pos_embed")
    yield from _linear("picture_patchifier.project", "proj_out")
    yield from _linear("final_modulation", "norm_out.linear", form="halves")
    for ours, theirs in (("time_embedding", "timestep_embedder"), ("pooled_embedding", "text_embedder")):
        yield from _linear(f"{ours}.first", f"time_text_embed.{theirs}.linear_1")
        yield from _linear(f"{ours}.second", f"time_text_embed.{theirs}.linear_2")
    yield from _linear("context_embedding", "context_embedder")
    for i, stream, last, dual in _streams(shape):
        ours, theirs = f"blocks.{i}.{stream}", f"transformer_blocks.{i}"
        end = "" if stream == "visual" else "_context"
        yield from _linear(f"{ours}.modulation", f"{theirs}.norm1{end}.linear", form="halves" if last else "same")
        yield from _diffusers_attention(shape, ours, f"{theirs}.attn", added=stream == "context", last=last)
        if dual:
            yield from _diffusers_attention(shape, f"{ours}.own", f"{theirs}.attn2", added=False, last=False)
        if not last:
            yield from _linear(f"{ours}.mlp.0", f"{theirs}.ff{end}.net.0.proj")
            yield from _linear(f"{ours}.mlp.2", f"{theirs}.ff{end}.net.2")


def _diffusers_attention(shape: Shape, ours: str, theirs: str, *, added: bool, last: bool) -> Iterator[Rule]:
    names = [f"{theirs}.add_{x}_proj" if added else f"{theirs}.to_{x}" for x in "qkv"]
    yield from _linear(f"{ours}.qkv", *names)
    if shape.qk_norm:
        for x in "qk":
            yield Rule(f"{ours}.norm_{x}.weight", (f"{theirs}.norm_{'added_' if added else ''}{x}.weight",))
    if not last:
        yield from _linear(f"{ours}.proj", f"{theirs}.to_add_out" if added else f"{theirs}.to_out.0")
