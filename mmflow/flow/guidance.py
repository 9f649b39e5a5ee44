"""Classifier-free guidance as a wrapper around a velocity; the solver does not know of it."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.path import expand_like

Groups = tuple[Float[Tensor, "_ _ _ _ _"], ...]
ALWAYS = (0.0, 1.0)


def guided(
    velocity: Callable[[Groups, Float[Tensor, " B"], Any], Groups],
    conditioning: Any,
    paired: Any,
    scale: Float[Tensor, " B"],
    interval: tuple[float, float] = ALWAYS,
) -> Callable[[Groups, Float[Tensor, " B"]], Groups]:
    """v = v_null + scale (v_cond - v_null), both halves in one call.

    Args:
        velocity: (z, t, conditioning) -> dz/dt.
        conditioning: of the samples alone; used when no sample is guided.
        paired: of a bag in which each group is followed by itself: first the group's samples with their own
            conditioning, then the same samples with the null (or negative) one.
        scale: per sample; 1 is no guidance.
        interval: shares of the noise within which there is guidance; outside the scale is 1 (arXiv 2404.07724).

    Returns:
        (z, t) -> guided dz/dt, for a solver. Where every scale is 1 the null half is not computed.
    """
    if bool((scale == 1).all()):
        return lambda z, t: velocity(z, t, conditioning)
    low, high = interval

    def field(z: Groups, t: Float[Tensor, " B"]) -> Groups:
        scales = scale
        if interval != ALWAYS:
            scales = torch.where((t >= low) & (t <= high), scale, torch.ones_like(scale))
            if bool((scales == 1).all()):
                return velocity(z, t, conditioning)
        sizes = [len(x) for x in z]
        doubled_t = torch.cat([part for s in t.split(sizes) for part in (s, s)])
        both = velocity(tuple(torch.cat([x, x]) for x in z), doubled_t, paired)
        return tuple(
            null + expand_like(w, null) * (cond - null)
            for (cond, null), w in zip((v.chunk(2) for v in both), scales.split(sizes), strict=True)
        )

    return field
