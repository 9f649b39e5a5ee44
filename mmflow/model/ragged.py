"""Row operations on packed tokens, as `torch.library` ops: opaque to the compiler, exact in backward, no padding.

A packed stream is an (R, ...) tensor that holds the tokens of B samples one after the other; `lengths` (B,) says how
many each has. `lengths` lives in host memory, so no op waits for the device. Neighbouring samples of equal length form
a *run*: a run is a dense view `b n ...` and costs what a dense batch costs.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

MANY_RUNS = 16
"""Past this many runs, one gather of a row per token beats a loop over the runs."""


def runs(lengths: Tensor) -> Iterator[tuple[slice, slice, int, int]]:
    """(samples, rows, samples in the run, tokens of each) for every run of neighbours of equal length."""
    sample = row = 0
    for length, members in groupby(lengths.tolist()):
        b = len(list(members))
        yield slice(sample, sample + b), slice(row, row + b * length), b, length
        sample, row = sample + b, row + b * length


def paired_runs(lengths: Tensor, others: Tensor) -> Iterator[tuple[slice, slice, int, int, int]]:
    """(rows, rows of the other stream, samples in the run, tokens of each, tokens of each in the other stream) for
    every run of neighbours that are alike in both streams.
    """
    row = other = 0
    for (n, m), members in groupby(zip(lengths.tolist(), others.tolist(), strict=True)):
        b = len(list(members))
        yield slice(row, row + b * n), slice(other, other + b * m), b, n, m
        row, other = row + b * n, other + b * m


def _num_runs(lengths: Tensor) -> int:
    return 1 + int((lengths[1:] != lengths[:-1]).sum()) if len(lengths) else 0


def _per_row(x: Tensor, lengths: Tensor, rows: int) -> Tensor:
    return x.repeat_interleave(lengths.to(x.device, non_blocking=True), 0, output_size=rows)


@torch.library.custom_op("mmflow::affine_rows", mutates_args=())
def affine_rows(x: Tensor, shift: Tensor, scale: Tensor, lengths: Tensor) -> Tensor:
    """x (1 + scale) + shift with one (shift, scale) per sample. x (R, D); shift, scale (B, D); lengths (B,)."""
    if _num_runs(lengths) > MANY_RUNS:
        return torch.addcmul(_per_row(shift, lengths, len(x)), x, _per_row(scale + 1, lengths, len(x)))
    out = torch.empty_like(x)
    for samples, rows, b, n in runs(lengths):
        torch.addcmul(
            shift[samples, None],
            x[rows].view(b, n, x.shape[1]),
            scale[samples, None] + 1,
            out=out[rows].view(b, n, x.shape[1]),
        )
    return out


@affine_rows.register_fake
def _(x: Tensor, shift: Tensor, scale: Tensor, lengths: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("mmflow::sum_rows", mutates_args=())
def sum_rows(x: Tensor, lengths: Tensor) -> Tensor:
    """Sum of each sample's rows: (R, D) -> (B, D)."""
    out = x.new_zeros(len(lengths), x.shape[1])
    if _num_runs(lengths) > MANY_RUNS:
        index = torch.arange(len(lengths)).repeat_interleave(lengths).to(x.device, non_blocking=True)
        return out.index_add_(0, index, x)
    for samples, rows, b, n in runs(lengths):
        if n:
            torch.sum(x[rows].view(b, n, x.shape[1]), 1, out=out[samples])
    return out


@sum_rows.register_fake
def _(x: Tensor, lengths: Tensor) -> Tensor:
    # `len` would make the number of samples a constant of the compiled program.
    return x.new_empty(lengths.shape[0], x.shape[1])


def _affine_setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    x, _, scale, lengths = inputs
    ctx.save_for_backward(x, scale, lengths)


def _affine_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, scale, lengths = ctx.saved_tensors
    grad = grad.contiguous()
    dx = affine_rows(grad, torch.zeros_like(scale), scale, lengths)
    return dx, sum_rows(grad, lengths), sum_rows(grad * x, lengths), None


affine_rows.register_autograd(_affine_backward, setup_context=_affine_setup)


@torch.library.custom_op("mmflow::gate_rows", mutates_args=())
def gate_rows(x: Tensor, y: Tensor, gate: Tensor, lengths: Tensor) -> Tensor:
    """x + gate y with one gate per sample. x, y (R, D); gate (B, D); lengths (B,)."""
    if _num_runs(lengths) > MANY_RUNS:
        return torch.addcmul(x, y, _per_row(gate, lengths, len(x)))
    out = torch.empty_like(x)
    for samples, rows, b, n in runs(lengths):
        torch.addcmul(
            x[rows].view(b, n, x.shape[1]),
            y[rows].view(b, n, x.shape[1]),
            gate[samples, None],
            out=out[rows].view(b, n, x.shape[1]),
        )
    return out


@gate_rows.register_fake
def _(x: Tensor, y: Tensor, gate: Tensor, lengths: Tensor) -> Tensor:
    return torch.empty_like(x)


def _gate_setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    _, y, gate, lengths = inputs
    ctx.save_for_backward(y, gate, lengths)


def _gate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    y, gate, lengths = ctx.saved_tensors
    grad = grad.contiguous()
    dy = affine_rows(grad, torch.zeros_like(gate), gate - 1, lengths)
    return grad, dy, sum_rows(grad * y, lengths), None


gate_rows.register_autograd(_gate_backward, setup_context=_gate_setup)


@torch.library.custom_op("mmflow::permute_rows", mutates_args=())
def permute_rows(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """x[order] for a permutation; the backward is x[inverse], a gather where autograd's own would scatter and add."""
    return x.index_select(0, order)


@permute_rows.register_fake
def _(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    return torch.empty_like(x)


def _permute_setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], inputs[2])


def _permute_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    order, inverse = ctx.saved_tensors
    return permute_rows(grad.contiguous(), inverse, order), None, None


permute_rows.register_autograd(_permute_backward, setup_context=_permute_setup)
