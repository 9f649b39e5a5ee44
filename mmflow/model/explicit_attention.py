"""Attention within each sample by explicit products, for processors that multiply bf16 themselves.

A call of a product costs as much as the product where samples are small, and one of a new shape several times that, so
neighbours of similar length share theirs: padded with zeros to the longest of them, and the padding's keys masked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from mmflow.model.ragged import paired_runs

CHUNK = 1024
"""Queries whose attention weights are held at a time, so that memory grows linearly with a sample's length."""
PADDING = 1.25
"""Pairs of queries and keys that a padded call may have, over those that count."""
HELD = 2**19
"""Weights that a padded call may hold, all heads together: past what stays in a core's cache, sharing costs time."""
LANES, SHORT = 32, 256
"""bf16 numbers in a vector register; keys up to which what is left of a row's last vector is worth a detour."""
PIECE = 2**15
"""Numbers of a softmax by way of fp32 at a time."""

QUERIES, KEYS = 0, 1

aten = torch.ops.aten
Ends = tuple[tuple[slice, int], ...]
"""(samples, keys of each) of those that have fewer than the longest."""


def heads_first(x: Tensor, b: int, n: int) -> Tensor:
    """Rows (b n, K, E) of samples of one length as a view (b, K, n, E)."""
    return x.view(b, n, x.shape[1], x.shape[2]).transpose(1, 2)


@dataclass(frozen=True)
class Run:
    """Neighbours alike: their rows among the queries and among the keys, how many they are, and each one's tokens."""

    rows: tuple[slice, slice]
    samples: int
    tokens: tuple[int, int]

    def of(self, x: Tensor, side: int) -> Tensor:
        """Its queries (side 0) or keys (side 1) in x (R, K, E), as a view (samples, K, tokens, E)."""
        return heads_first(x[self.rows[side]], self.samples, self.tokens[side])


@dataclass(frozen=True)
class Bag:
    """Runs of similar length, whose products are one call each."""

    runs: tuple[Run, ...]

    def longest(self, side: int) -> int:
        """Tokens that all samples are padded to."""
        return max(run.tokens[side] for run in self.runs)

    @property
    def samples(self) -> int:
        """Of all runs."""
        return sum(run.samples for run in self.runs)

    @property
    def places(self) -> list[slice]:
        """Samples of each run within the bag."""
        ends = list(accumulate(run.samples for run in self.runs))
        return [slice(end - run.samples, end) for end, run in zip(ends, self.runs, strict=True)]

    @property
    def ends(self) -> Ends:
        """Where keys are padding."""
        longest = self.longest(KEYS)
        each = ((place, run.tokens[KEYS]) for place, run in zip(self.places, self.runs, strict=True))
        return tuple((place, end) for place, end in each if end < longest)

    def padded(self, x: Tensor, side: int) -> Tensor:
        """The bag's rows of x (R, K, E) as (samples, K, longest, E), zeros after each sample's own."""
        out = x.new_zeros(self.samples, x.shape[1], self.longest(side), x.shape[2])
        for place, run in zip(self.places, self.runs, strict=True):
            out[place, :, : run.tokens[side]] = run.of(x, side)
        return out

    def put(self, padded: Tensor, out: Tensor, side: int) -> None:
        """Writes what of `padded` is no padding into the bag's rows of `out`."""
        for place, run in zip(self.places, self.runs, strict=True):
            run.of(out, side).copy_(padded[place, :, : run.tokens[side]])


@dataclass(frozen=True)
class Size:
    """What a call over some runs would be.

    Attributes:
        samples: of all runs.
        pairs: of queries and keys that count.
        longest: queries and keys that all samples are padded to.
    """

    samples: int = 0
    pairs: int = 0
    longest: tuple[int, int] = (0, 0)

    def __add__(self, run: Run) -> "Size":
        n, m = run.tokens
        longest = max(self.longest[QUERIES], n), max(self.longest[KEYS], m)
        return Size(self.samples + run.samples, self.pairs + run.samples * n * m, longest)

    def pays(self, num_heads: int) -> bool:
        """Whether it is cheaper than a call for each run."""
        padded = self.samples * self.longest[QUERIES] * self.longest[KEYS]
        return padded <= PADDING * self.pairs and padded * num_heads <= HELD


def bags(lengths: Tensor, key_lengths: Tensor, num_heads: int, shares: bool) -> Iterator[Bag]:
    """All samples in their order; of runs only that have queries and keys does a bag hold several.

    Args:
        lengths: queries of each sample (host).
        key_lengths: keys of each.
        num_heads: of the attention.
        shares: whether runs may be put together at all.
    """
    runs: list[Run] = []
    size = Size()
    for rows, keys, b, n, m in paired_runs(lengths, key_lengths):
        run = Run((rows, keys), b, (n, m))
        joins = shares and size.pairs and n and m and (size + run).pays(num_heads)
        if runs and not joins:
            yield Bag(tuple(runs))
            runs, size = [], Size()
        runs.append(run)
        size += run
    if runs:
        yield Bag(tuple(runs))


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, key_lengths: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) v within each sample; see `ragged_attention`. Long samples go in chunks of queries."""
    out = torch.empty_like(q)
    for bag in bags(lengths, key_lengths, q.shape[1], q.device.type == "cpu"):
        if len(bag.runs) > 1:
            qs, ks, vs = bag.padded(q, QUERIES), bag.padded(k, KEYS), bag.padded(v, KEYS)
            bag.put(_weights(qs, ks, bag.ends) @ vs, out, QUERIES)
            continue
        (run,) = bag.runs
        if not all(run.tokens):
            out[run.rows[QUERIES]] = 0  # a sum over no keys
            continue
        kh, vh = run.of(k, KEYS), run.of(v, KEYS)
        parts = (run.of(x, QUERIES).split(CHUNK, 2) for x in (q, out))
        for part, place in zip(*parts, strict=True):
            place.copy_(_weights(part, kh) @ vh)
    return out


def explicit_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, key_lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by q, k, v. The weights are computed again."""
    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    for bag in bags(lengths, key_lengths, q.shape[1], q.device.type == "cpu"):
        if len(bag.runs) > 1:
            gs, qs, ks, vs = bag.padded(grad, QUERIES), bag.padded(q, QUERIES), bag.padded(k, KEYS), bag.padded(v, KEYS)
            found = _gradients(gs, qs, ks, vs, bag.ends)
            for value, target, side in zip(found, (dq, dk, dv), (QUERIES, KEYS, KEYS), strict=True):
                bag.put(value, target, side)
            continue
        (run,) = bag.runs
        if not all(run.tokens):
            dq[run.rows[QUERIES]], dk[run.rows[KEYS]], dv[run.rows[KEYS]] = 0, 0, 0
            continue
        kh, vh, dkh, dvh = (run.of(x, KEYS) for x in (k, v, dk, dv))
        parts = (run.of(x, QUERIES).split(CHUNK, 2) for x in (grad, q, dq))
        for i, (g, part, place) in enumerate(zip(*parts, strict=True)):
            by_q, by_k, by_v = _gradients(g, part, kh, vh)
            place.copy_(by_q)
            for target, value in ((dkh, by_k), (dvh, by_v)):
                target.copy_(value) if i == 0 else target.add_(value)
    return dq, dk, dv


def _gradients(g: Tensor, q: Tensor, k: Tensor, v: Tensor, ends: Ends = ()) -> tuple[Tensor, Tensor, Tensor]:
    """Of some queries and all of their keys; heads first."""
    scale: float = q.shape[-1] ** -0.5
    weights = _weights(q, k, ends)
    dscores = aten._softmax_backward_data(g @ v.transpose(-2, -1), weights, -1, weights.dtype)
    return (dscores @ k) * scale, dscores.transpose(-2, -1) @ (q * scale), weights.transpose(-2, -1) @ g


def _weights(q: Tensor, k: Tensor, ends: Ends = ()) -> Tensor:
    """softmax(q k^T / sqrt(E)) of heads-first tensors (b, K, n, E), 0 where keys are padding."""
    scale: float = q.shape[-1] ** -0.5
    scores = (q * scale) @ k.transpose(-2, -1)
    for samples, end in ends:
        scores[samples, :, :, end:] = float("-inf")
    return _softmax(scores)


def _softmax(scores: Tensor) -> Tensor:
    """Over the last dimension, in fp32 and rounded once, as torch does for bf16 itself. `scores` may be written to.

    Torch's kernel takes a row's last numbers, those that fill no vector, one by one where it is given bf16 and not
    where it is given fp32: 1.9 ns a number against 0.8 at 76 keys, 1.0 against 0.7 at 136. The pieces are so small
    that their memory stays with the process: that of all at once is taken from the system anew in every call.
    """
    keys = scores.shape[-1]
    if scores.dtype != torch.bfloat16 or keys > SHORT or LANES * (keys % LANES) <= keys:
        return torch.softmax(scores, -1)
    for piece in scores.view(-1, keys).split(PIECE // keys):
        piece.copy_(torch.softmax(piece, -1, dtype=torch.float32))
    return scores
