"""Attention within each sample, both ways, against torch's own; what the compiler and the FLOP counter see of it."""

import pytest
import torch

from mmflow.model.attention import block_lengths
from mmflow.model.explicit_attention import CHUNK
from mmflow.model.ragged_attention import (
    _is_fused,
    bounds,
    ragged_attention,
    ragged_attention_backward,
    ragged_attention_forward,
)
from tests.model.test_ragged import LENGTHS


@pytest.mark.parametrize("lengths", [*LENGTHS, [CHUNK + 1, 2]], ids=str)
@pytest.mark.parametrize("way", ["fused", "explicit"])
def test_attention_is_sdpa_within_each_sample(lengths: list[int], way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmflow.model.ragged_attention._is_fused", lambda q: way == "fused")
    n = torch.tensor(lengths, dtype=torch.int64)
    q, k, v = (torch.randn(sum(lengths), 2, 8, requires_grad=True) for _ in range(3))
    out = ragged_attention(q, k, v, n)
    expected = [
        torch.nn.functional.scaled_dot_product_attention(*(x.transpose(0, 1) for x in (a, b, c))).transpose(0, 1)
        for a, b, c in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
        if len(a)
    ]
    if not expected:
        assert out.shape == q.shape
        return
    reference = torch.cat(expected)
    assert torch.allclose(out, reference, atol=1e-5)
    weight = torch.randn_like(out)
    mine = torch.autograd.grad((out * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((reference * weight).sum(), (q, k, v))
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("way", ["fused", "explicit"])
def test_the_op_is_what_the_compiler_expects(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmflow.model.ragged_attention._is_fused", lambda q: way == "fused")
    q, k, v = (torch.randn(5, 2, 8, requires_grad=True) for _ in range(3))
    torch.library.opcheck(torch.ops.mmflow.ragged_attention.default, (q, k, v, *2 * [torch.tensor([3, 2])]))


@pytest.mark.parametrize("has", [True, False], ids=["bf16 instructions", "none"])
def test_bf16_is_fused_where_there_are_no_instructions_for_it(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmflow.model.ragged_attention.has_bf16_instructions", lambda: has)
    q, k, v = (torch.randn(9, 2, 8).bfloat16().requires_grad_() for _ in range(3))
    n = torch.tensor([4, 5])
    assert _is_fused(q) is not has
    out = ragged_attention(q, k, v, n)
    assert out.dtype == torch.bfloat16
    exact = [x.detach().float().requires_grad_() for x in (q, k, v)]
    expected = ragged_attention(*exact, n)
    assert torch.allclose(out.float(), expected, atol=0.03)
    found = torch.autograd.grad(out.float().square().sum(), (q, k, v))
    for mine, theirs in zip(found, torch.autograd.grad(expected.square().sum(), exact), strict=True):
        torch.testing.assert_close(mine.float(), theirs, atol=0.1, rtol=0.05)


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Attention over everything at once, under a mask of (queries, keys)."""
    logits = torch.einsum("qhe,khe->hqk", q, k) / q.shape[-1] ** 0.5
    weights = torch.softmax(logits.masked_fill(~allowed, float("-inf")), -1)
    return torch.einsum("hqk,khe->qhe", weights, v)


@pytest.mark.parametrize("lengths", [([3, 1, 4], [3, 1, 4]), ([3, 3, 1], [2, 2, 5]), ([4, 0, 2], [1, 3, 3])], ids=str)
def test_the_layouts_of_varlen_and_xformers_are_the_mask_of_the_reference(lengths: tuple[list[int], list[int]]) -> None:
    """Both name blocks; as a mask over all rows these give what the CPU computes sample by sample."""
    n, m = (torch.tensor(x) for x in lengths)
    q = torch.randn(sum(lengths[0]), 2, 8)
    k, v = (torch.randn(sum(lengths[1]), 2, 8) for _ in range(2))
    reference = ragged_attention(q, k, v, n, m)

    starts, key_starts = bounds(n), bounds(m)
    assert starts.dtype == torch.int32 and int(starts[-1]) == len(q) and int(key_starts[-1]) == len(k)
    sample = torch.bucketize(torch.arange(len(q)), starts[1:].long(), right=True)
    key_sample = torch.bucketize(torch.arange(len(k)), key_starts[1:].long(), right=True)
    torch.testing.assert_close(masked(q, k, v, sample[:, None] == key_sample[None]), reference, atol=1e-5, rtol=0)

    blocks = [torch.ones(a, b, dtype=torch.bool) for a, b in zip(*block_lengths(n, m), strict=True)]
    torch.testing.assert_close(masked(q, k, v, torch.block_diag(*blocks).bool()), reference, atol=1e-5, rtol=0)


def test_varlen_is_called_as_flash_attention_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without storage: the arguments fit torch's operator, and its outputs are what ours are said to be."""
    monkeypatch.setattr("mmflow.model.ragged_attention._is_varlen", lambda q: True)
    q, k, v = (torch.empty(n, 2, 64, dtype=torch.bfloat16, device="meta") for n in (7, 9, 9))
    n, m = torch.tensor([3, 4]), torch.tensor([5, 4])
    out, sums = ragged_attention_forward._init_fn(q, k, v, n, m)
    expected = torch.ops.mmflow.ragged_attention(q, k, v, n, m)
    assert [x.shape for x in (out, sums)] == [x.shape for x in expected] == [(7, 2, 64), (2, 7)]
    assert (out.dtype, sums.dtype) == (torch.bfloat16, torch.float32)
    grads = ragged_attention_backward._init_fn(out, q, k, v, out, sums, n, m)
    assert [g.shape for g in grads] == [x.shape for x in (q, k, v)]


def test_attention_counts_its_flops() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    q = torch.randn(7, 2, 8, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = ragged_attention(q, q, q, torch.tensor([3, 4]))
        out.sum().backward()
    assert counter.get_total_flops() == (2 * 2 + 5 * 2) * (9 + 16) * 16


@pytest.mark.parametrize(
    "lengths", [([3, 3, 1], [2, 2, 5]), ([4, 0, 2], [1, 3, 3]), ([2, 3], [0, 4]), ([2], [0])], ids=str
)
@pytest.mark.parametrize("way", ["fused", "explicit"])
def test_keys_of_another_stream(
    lengths: tuple[list[int], list[int]], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmflow.model.ragged_attention._is_fused", lambda q: way == "fused")
    n, m = (torch.tensor(x) for x in lengths)
    q = torch.randn(sum(lengths[0]), 2, 8, requires_grad=True)
    k, v = (torch.randn(sum(lengths[1]), 2, 8, requires_grad=True) for _ in range(2))
    out = ragged_attention(q, k, v, n, m)
    expected = [
        torch.softmax(torch.einsum("qhe,khe->hqk", a, b) / 8**0.5, -1) @ c.transpose(0, 1)
        for a, b, c in zip(q.split(lengths[0]), k.split(lengths[1]), v.split(lengths[1]), strict=True)
    ]
    reference = torch.cat([x.transpose(0, 1) for x in expected])  # a sum over no keys is zero
    torch.testing.assert_close(out, reference, atol=1e-5, rtol=0)
    weight = torch.randn_like(out)
    mine = torch.autograd.grad((out * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((reference * weight).sum(), (q, k, v))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_flops_of_other_keys() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    q, k = (torch.randn(n, 2, 8, device="meta", requires_grad=True) for n in (7, 5))
    with FlopCounterMode(display=False) as counter:
        ragged_attention(q, k, k, torch.tensor([3, 4]), torch.tensor([1, 4])).sum().backward()
    assert counter.get_total_flops() == (2 * 2 + 5 * 2) * (3 + 16) * 16
