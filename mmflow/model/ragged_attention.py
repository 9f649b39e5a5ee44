"""Attention within each sample of packed tokens, as one `torch.library` op with its own backward and FLOP formula.

Neighbours of equal length share one call. Three ways to the same numbers: on CUDA, in bf16 and fp16, FlashAttention
over all samples in one call, which takes where each begins (varlen; it has not run on a GPU yet, its call and its
bounds are tested); otherwise what was faster where it was measured (docs/performance.md): on a CPU torch's fused kernel
for fp32, and for bf16 where the processor has no instructions for it; explicit products otherwise (explicit_attention).
The choice follows from the processor and the dtype alone and is not timed in the run, since the two round differently
and a run that is continued must repeat itself to the bit.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mmflow.model.explicit_attention import explicit_attention, explicit_backward, heads_first
from mmflow.model.ragged import paired_runs

aten = torch.ops.aten


@lru_cache(maxsize=1)
def has_bf16_instructions() -> bool:
    """Whether the processor multiplies bf16 itself (AVX512_BF16 or AMX); torch widens the numbers where it does not."""
    found = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in found if check is not None)


def _is_fused(q: Tensor) -> bool:
    if q.device.type != "cpu":
        return False
    return q.dtype in (torch.float32, torch.float64) or (q.dtype == torch.bfloat16 and not has_bf16_instructions())


WIDEST = 256
"""Channels of a head that FlashAttention takes."""


def _is_varlen(q: Tensor) -> bool:
    return q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16) and q.shape[-1] <= WIDEST


def bounds(lengths: Tensor) -> Tensor:
    """Where each sample begins, and the end: 0, n_1, n_1 + n_2, ... as FlashAttention and xformers take it, int32."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def _varlen(lengths: Tensor, key_lengths: Tensor, device: torch.device) -> tuple[Tensor, Tensor, int, int]:
    """Bounds of queries and keys on the device, and the longest of each; nothing waits for the device."""
    ends = (bounds(n).to(device, non_blocking=True) for n in (lengths, key_lengths))
    longest = (int(n.max()) if len(n) else 0 for n in (lengths, key_lengths))
    return *ends, *longest  # type: ignore[return-value]


def _sums_shape(q: Tensor) -> tuple[Any, ...]:
    """Of the logarithms of the softmax's sums, as each way keeps them; symbols where the compiler looks."""
    if _is_varlen(q):
        return q.shape[1], q.shape[0]
    return (q.shape[0], q.shape[1]) if _is_fused(q) else (0,)


def _sums_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def ragged_attention(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, key_lengths: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(E)) v within each sample. q (R, K, E), k and v (S, K, E) -> (R, K, E).

    Args:
        q: queries.
        k: keys.
        v: values.
        lengths: queries of each sample, (B,) in host memory.
        key_lengths: keys of each sample, if they are others than its queries. A sample without keys gets zeros.
    """
    out: Tensor = ragged_attention_forward(q, k, v, lengths, lengths if key_lengths is None else key_lengths)[0]
    return out


@torch.library.custom_op("mmflow::ragged_attention", mutates_args=())
def ragged_attention_forward(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, key_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """The attention's output, and the logarithm (R, K) of each softmax's sum where the kernel is fused ((K, R) for
    varlen, else empty).
    """
    if _is_varlen(q):
        ends = _varlen(lengths, key_lengths, q.device)
        flash = aten._flash_attention_forward(q, k, v, *ends, 0.0, False, False)
        return flash[0], flash[1]
    if not _is_fused(q):
        return explicit_attention(q, k, v, lengths, key_lengths), q.new_empty(_sums_shape(q), dtype=_sums_dtype(q))
    out = torch.empty_like(q)
    log_sums = q.new_empty(_sums_shape(q), dtype=_sums_dtype(q))
    for rows, keys, b, n, m in paired_runs(lengths, key_lengths):
        if not n:
            continue
        if not m:
            out[rows] = 0
            continue
        qh, kh, vh = heads_first(q[rows], b, n), heads_first(k[keys], b, m), heads_first(v[keys], b, m)
        value, log_sum = aten._scaled_dot_product_flash_attention_for_cpu(qh, kh, vh)
        heads_first(out[rows], b, n).copy_(value)
        log_sums[rows].view(b, n, q.shape[1]).transpose(1, 2).copy_(log_sum)
    return out, log_sums


@ragged_attention_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, key_lengths: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(_sums_shape(q), dtype=_sums_dtype(q))


@torch.library.custom_op("mmflow::ragged_attention_backward", mutates_args=())
def ragged_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sums: Tensor,
    lengths: Tensor,
    key_lengths: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `ragged_attention` by q, k, v."""
    if _is_varlen(q):
        ends = _varlen(lengths, key_lengths, q.device)
        unused = torch.empty(2, dtype=torch.uint64, device=q.device)  # the dropout's state, of which there is none
        found = aten._flash_attention_backward(grad, q, k, v, out, log_sums, *ends, 0.0, False, unused, unused)
        return found[0], found[1], found[2]
    if not len(log_sums):
        return explicit_backward(grad, q, k, v, lengths, key_lengths)
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    for rows, keys, b, n, m in paired_runs(lengths, key_lengths):
        if not n or not m:
            for target, part in zip(grads, (rows, keys, keys), strict=True):
                target[part] = 0
            continue
        gh, qh, oh, dq = (heads_first(x[rows], b, n) for x in (grad, q, out, grads[0]))
        kh, vh, dk, dv = (heads_first(x[keys], b, m) for x in (k, v, grads[1], grads[2]))
        log_sum = log_sums[rows].view(b, n, q.shape[1]).transpose(1, 2)
        values = aten._scaled_dot_product_flash_attention_for_cpu_backward(gh, qh, kh, vh, oh, log_sum, 0.0, False)
        for target, value in zip((dq, dk, dv), values, strict=True):
            target.copy_(value)
    return grads


@ragged_attention_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_sums: Tensor,
    lengths: Tensor,
    key_lengths: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _attention_setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, lengths, key_lengths = inputs
    out, log_sums = output
    ctx.mark_non_differentiable(log_sums)
    ctx.save_for_backward(q, k, v, out, log_sums, lengths, key_lengths)


def _attention_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *ragged_attention_backward(grad.contiguous(), *ctx.saved_tensors), None, None


ragged_attention_forward.register_autograd(_attention_backward, setup_context=_attention_setup)


def _pairs(lengths: Tensor, key_lengths: Tensor) -> int:
    return int((lengths * key_lengths).sum())


@register_flop_formula(torch.ops.mmflow.ragged_attention, get_raw=True)
def _attention_flops(q: Tensor, k: Tensor, v: Tensor, *lengths: Tensor, **_: Any) -> int:
    return 2 * 2 * _pairs(*lengths) * q.shape[1] * q.shape[2]


@register_flop_formula(torch.ops.mmflow.ragged_attention_backward, get_raw=True)
def _attention_backward_flops(grad: Tensor, q: Tensor, *others: Tensor, **_: Any) -> int:
    return 5 * 2 * _pairs(*others[-2:]) * q.shape[1] * q.shape[2]
