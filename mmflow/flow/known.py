"""Parts of a sample that are given: the data there is what is given, in training and along the way of the solver.

`known` has, for each group of a bag, `latents` (B C T H W) and `mask` (B 1 T H W), 1 where the model generates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.path import expand_like

Groups = tuple[Float[Tensor, "_ _ _ _ _"], ...]


def with_known(x0: Groups, conditioning: Any) -> Groups:
    """x0 with the conditioning's known latents in their places.

    A latent of the whole sample may have seen what is around it, which at sampling nobody has: z_t is therefore made of
    what is given there.
    """
    known = getattr(conditioning, "known", None)
    if known is None:
        return x0
    return tuple(torch.where(k.mask > 0, x, k.latents) for x, k in zip(x0, known, strict=True))


def started(y: Groups, noise: Groups, known: Sequence[Any], s: Float[Tensor, " B"]) -> Groups:
    """The start of sampling, at shares s of the noise: y, and (1 - s) known + s noise where something is known."""
    mixed = []
    for x, eps, k, r in zip(y, noise, known, s.split([len(x) for x in y]), strict=True):
        share = expand_like(r, x)
        mixed.append(torch.where(k.mask > 0, x, (1 - share) * k.latents + share * eps))
    return tuple(mixed)


def held(
    field: Callable[[Groups, Float[Tensor, " B"]], Groups], known: Sequence[Any]
) -> Callable[[Groups, Float[Tensor, " B"]], Groups]:
    """dy/ds of `field`, and (y - known) / s where something is known: the straight line to it.

    Every solver follows a straight line exactly, so y there is (1 - s) known + s noise at every step, as in training,
    and the given latents at the end.
    """

    def kept(y: Groups, s: Float[Tensor, " B"]) -> Groups:
        velocities = field(y, s)
        return tuple(
            torch.where(k.mask > 0, v, (x - k.latents) / expand_like(r, x))
            for v, x, k, r in zip(velocities, y, known, s.split([len(x) for x in y]), strict=True)
        )

    return kept
