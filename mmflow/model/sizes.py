"""A model's sizes: read off its tensors, and the tensors that follow from them."""

from functools import lru_cache
from pathlib import Path

import torch

from mmflow.model.archive import Archive
from mmflow.model.design import Design
from mmflow.model.heads import HEAD_WIDTH
from mmflow.model.layouts import LayoutName, Shape, rules
from mmflow.model.mmdit import MMDiT


def infer_shape(network: Archive, layout: LayoutName, path: Path) -> Shape:
    """The model's sizes from its tensors.

    Raises:
        ValueError: if one that says them is missing.
    """
    plain = Shape(1, HEAD_WIDTH, 1, 1, 1, 1, 1, qk_norm=True, dual_blocks=1, table=1)
    names = {rule.ours: rule.theirs[0] for rule in rules(plain, layout)}

    def size(ours: str) -> tuple[int, ...]:
        if names[ours] not in network.found:
            raise ValueError(f"{path} is no whole MM-DiT in a published layout:\n  missing: {names[ours]}")
        return network.found[names[ours]].shape

    def blocks(ours: str) -> set[int]:
        before, after = names[ours].split(".0.", 1)
        return {int(n.split(".")[1]) for n in network if n.startswith(f"{before}.") and n.endswith(f".{after}")}

    patches = size("picture_patchifier.embed.weight")
    if len(patches) != 4:
        raise ValueError(f"{path}: {names['picture_patchifier.embed.weight']} is {patches}, not a convolution's weight")
    dual = blocks("blocks.0.visual.own.qkv.weight")
    if dual != set(range(len(dual))):
        raise ValueError(f"{path}: blocks {sorted(dual)} have a second attention; only the first ones may have it")
    return Shape(
        depth=1 + max(blocks("blocks.0.visual.modulation.weight"), default=0),
        width=patches[0],
        in_channels=patches[1],
        out_channels=size("picture_patchifier.project.weight")[0] // patches[2] ** 2,
        patch_size=patches[2],
        context_width=size("context_embedding.weight")[1],
        pooled_width=size("pooled_embedding.first.weight")[1],
        qk_norm=bool(blocks("blocks.0.visual.norm_q.weight")),
        dual_blocks=len(dual),
        table=round(size("position_table")[1] ** 0.5),
    )


def picture_model(shape: Shape) -> MMDiT:
    """A picture model of that shape without memory.

    Raises:
        ValueError: if there can be none: its width is not 64 x depth, or its channels are another program's.
    """
    if shape.width != HEAD_WIDTH * shape.depth:
        raise ValueError(f"width {shape.width} contradicts depth {shape.depth}: it must be {HEAD_WIDTH} x depth")
    known = shape.in_channels == 2 * shape.out_channels + 1
    if shape.in_channels != shape.out_channels and not known:
        raise ValueError(
            f"a model that takes {shape.in_channels} channels and gives {shape.out_channels} was made for editing by "
            f"another program, and cannot be read; one that takes {shape.out_channels}, or with a mask and known "
            f"latents {2 * shape.out_channels + 1}, can"
        )
    with torch.device("meta"):
        return MMDiT(
            shape.depth,
            shape.out_channels,
            shape.context_width,
            shape.pooled_width,
            shape.patch_size,
            None,
            qk_norm=shape.qk_norm,
            design=Design(shape.dual_blocks, shape.table, known=known),
        )


@lru_cache(maxsize=8)
def published_shapes(shape: Shape, layout: LayoutName) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model in a published layout."""
    state = picture_model(shape).state_dict()
    made = (rule.to_theirs(state[rule.ours], shape.patch_size) for rule in rules(shape, layout))
    return {name: tuple(tensor.shape) for tensors in made for name, tensor in tensors.items()}


def shape_of(model: MMDiT) -> Shape:
    """The picture half of a model, as the published layouts have it."""
    patchifier = model.picture_patchifier
    return Shape(
        depth=model.depth,
        width=model.width,
        in_channels=patchifier.embed.in_features // patchifier.patch[1] ** 2,
        out_channels=model.in_channels,
        patch_size=patchifier.patch[1],
        context_width=model.context_width,
        pooled_width=model.pooled_width,
        qk_norm=any(name.endswith("norm_q.weight") for name, _ in model.named_parameters()),
        dual_blocks=model.design.dual_attention_blocks,
        table=model.design.position_table,
    )
