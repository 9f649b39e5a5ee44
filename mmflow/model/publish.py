"""Our weights in the published layouts, one tensor at a time."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from mmflow.model.archive import Outgoing
from mmflow.model.interop import without_memory
from mmflow.model.layouts import PREFIX, LayoutName, Rule, Shape, rules
from mmflow.model.sizes import published_shapes


def published(
    shape: Shape, layout: LayoutName, weights: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> list[Outgoing]:
    """The tensors of a picture model, named and formed as `layout` has them.

    Args:
        shape: of the model; its table must not be None, as no published layout can do without one.
        layout: `diffusers`, without a prefix; `single-file`, under `model.diffusion_model.`.
        weights: under our names. What a published model has no place for, such as a 3D patchifier, is left out.
        dtype: of what is written; None keeps each tensor's own.

    Raises:
        ValueError: if the shape is none that can be published.
    """
    if shape.table is None:
        raise ValueError(
            "the published layouts store a position table: give the shape one, and the weights its numbers"
        )
    prefix = PREFIX if layout == "single-file" else ""
    shapes, kinds = published_shapes(shape, layout), without_memory(weights)
    last: dict[str, Tensor] = {}

    def make(rule: Rule, name: str) -> Tensor:
        if name not in last:  # q, k and v are written one after the other, and are one tensor of ours: read once
            last.clear()
            last.update(rule.to_theirs(weights[rule.ours], shape.patch_size))
        return last.pop(name)

    return [
        Outgoing(prefix + name, shapes[name], dtype or kinds[rule.ours].dtype, partial(make, rule, name))
        for rule in rules(shape, layout)
        for name in rule.theirs
    ]
