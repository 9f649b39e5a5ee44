"""Attention within each sample, both ways, against torch's own; what the compiler and the FLOP counter see of it."""

import pytest
import torch

from mmflow.model.ragged_attention import CHUNK, ragged_attention
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


def test_bf16_takes_explicit_products() -> None:
    q, k, v = (torch.randn(9, 2, 8).bfloat16() for _ in range(3))
    n = torch.tensor([4, 5])
    out = ragged_attention(q, k, v, n)
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), ragged_attention(q.float(), k.float(), v.float(), n), atol=0.03)


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
