"""Where each sample's tokens lie in the packed streams, computed once per forward."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor


def interleave(counts: NDArray[np.int64], sequence: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of streams that stand one after the other, put sample by sample.

    Args:
        counts: tokens of each sample in each stream, (S, B).
        sequence: the samples in their new order, (B,).

    Returns:
        For each place its row in cat(streams): sample by sample, and within a sample stream by stream.
    """
    flat = counts.reshape(-1)
    starts = (np.cumsum(flat) - flat).reshape(counts.shape).T[sequence].ravel()
    each = counts.T[sequence].ravel()
    within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
    order: NDArray[np.int64] = np.repeat(starts, each) + within
    return order


def inverted(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each row in a permutation."""
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse


@dataclass(frozen=True)
class Order:
    """A permutation of rows, and of the samples that they belong to."""

    samples: Int[Tensor, " B"]
    """Sample at each place."""
    order: Int[Tensor, " R"]
    """Row at each place."""
    inverse: Int[Tensor, " R"]
    """Place of each row."""

    @staticmethod
    def build(counts: NDArray[np.int64], sequence: NDArray[np.int64], device: torch.device) -> "Order":
        """Of the rows of streams, `counts` (S, B) tokens each, in which samples stand in `sequence`."""
        order = interleave(counts, sequence)
        arrays = (torch.from_numpy(x) for x in (sequence, order, inverted(order)))
        return Order(*(x.to(device, non_blocking=True) for x in arrays))


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
    samples: Int[Tensor, " B"]
    """Sample at each place of the joint sequence."""
    dense: bool
    """All samples have one shape and one caption length: the streams are views of a dense batch."""

    @staticmethod
    def build(visual: Int[Tensor, " B"], context: Int[Tensor, " B"], device: torch.device) -> "Layout":
        """The layout of samples with these token counts (host tensors). B may be 0."""
        return Layout.of_streams(context[None], visual, device)

    @staticmethod
    def of_streams(context: Int[Tensor, "P B"], visual: Int[Tensor, " B"], device: torch.device) -> "Layout":
        """The same with a context stream that is P streams, one after the other."""
        n, words = visual.numpy(), context.sum(0).numpy()
        total = n + words
        sequence = np.argsort(total, kind="stable")
        joint = Order.build(torch.cat([context, visual[None]]).numpy(), sequence, device)
        return Layout(
            visual=visual,
            context=context.sum(0),
            joint=torch.from_numpy(total[sequence]),
            order=joint.order,
            inverse=joint.inverse,
            samples=joint.samples,
            dense=len(context) == 1 and len(n) > 0 and bool((n == n[0]).all() and (words == words[0]).all()),
        )
