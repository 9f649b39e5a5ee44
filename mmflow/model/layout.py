"""Where each sample's tokens lie in the packed streams, computed once per forward."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Lengths of all samples and the permutation that joins the two streams for attention.

    The visual stream holds all visual tokens, (N, D) in the order of the groups; the context stream all text tokens,
    (L, D) in the same order of samples. For attention the rows of cat([context, visual]) are permuted so that each
    sample's tokens are neighbours, context first, and samples of equal length are neighbours as well.
    """

    visual: Int[Tensor, " B"]
    """Visual tokens per sample (host memory)."""
    context: Int[Tensor, " B"]
    """Text tokens per sample (host memory)."""
    joint: Int[Tensor, " B"]
    """Tokens per sample in the order of the joint sequence (host memory)."""
    order: Int[Tensor, " R"]
    """Row of cat([context, visual]) that stands at each place of the joint sequence."""
    inverse: Int[Tensor, " R"]
    """Place in the joint sequence of each row of cat([context, visual])."""
    dense: bool
    """All samples have one shape and one caption length: the streams are views of a dense batch."""

    @staticmethod
    def build(visual: Int[Tensor, " B"], context: Int[Tensor, " B"], device: torch.device) -> "Layout":
        """The layout of samples with these token counts (host tensors). B may be 0."""
        n, c = visual.numpy(), context.numpy()
        total = n + c
        sequence = np.argsort(total, kind="stable")
        first_context, first_visual = np.cumsum(c) - c, np.cumsum(n) - n + c.sum()
        starts = np.stack([first_context, first_visual], 1)[sequence].ravel()
        counts = np.stack([c, n], 1)[sequence].ravel()
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        order = np.repeat(starts, counts) + within
        inverse = np.empty_like(order)
        inverse[order] = np.arange(len(order))
        return Layout(
            visual=visual,
            context=context,
            joint=torch.from_numpy(total[sequence]),
            order=torch.from_numpy(order).to(device, non_blocking=True),
            inverse=torch.from_numpy(inverse).to(device, non_blocking=True),
            dense=len(n) > 0 and bool((n == n[0]).all() and (c == c[0]).all()),
        )
