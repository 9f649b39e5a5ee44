"""The packed row operations against plain torch, and their gradients against finite differences."""

import pytest
import torch

from mmflow.model import ragged

LENGTHS = [[3, 3, 2], [1, 0, 4], [5], [], [1 + i % 3 for i in range(40)]]


def rows(lengths: list[int], *tail: int) -> torch.Tensor:
    return torch.randn(sum(lengths), *tail, dtype=torch.float64, requires_grad=True)


def per_sample(lengths: list[int], d: int) -> torch.Tensor:
    return torch.randn(len(lengths), d, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_affine_and_gate(lengths: list[int]) -> None:
    n = torch.tensor(lengths, dtype=torch.int64)
    x, y, shift, scale = rows(lengths, 4), rows(lengths, 4), per_sample(lengths, 4), per_sample(lengths, 4)
    index = torch.arange(len(lengths)).repeat_interleave(n)
    assert torch.allclose(ragged.affine_rows(x, shift, scale, n), x * (1 + scale[index]) + shift[index])
    assert torch.allclose(ragged.gate_rows(x, y, scale, n), x + scale[index] * y)
    assert torch.allclose(
        ragged.sum_rows(x, n), torch.stack([p.sum(0) for p in x.split(lengths)]) if lengths else x[:0]
    )
    if 0 < len(lengths) < 10:
        assert torch.autograd.gradcheck(lambda *a: ragged.affine_rows(*a, n), (x, shift, scale))
        assert torch.autograd.gradcheck(lambda *a: ragged.gate_rows(*a, n), (x, y, scale))


@pytest.mark.parametrize("lengths", [*LENGTHS, [ragged.CHUNK + 1, 2]], ids=str)
def test_attention_is_sdpa_within_each_sample(lengths: list[int]) -> None:
    n = torch.tensor(lengths, dtype=torch.int64)
    q, k, v = (torch.randn(sum(lengths), 2, 8, requires_grad=True) for _ in range(3))
    out = ragged.ragged_attention(q, k, v, n)
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


def test_permutation_and_its_gradient() -> None:
    order = torch.randperm(7)
    inverse = torch.argsort(order)
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(ragged.permute_rows(x, order, inverse), x[order])
    assert torch.autograd.gradcheck(lambda x: ragged.permute_rows(x, order, inverse), (x,))


@pytest.mark.parametrize("op", ["affine_rows", "gate_rows", "sum_rows", "permute_rows", "ragged_attention"])
def test_ops_are_what_the_compiler_expects(op: str) -> None:
    n = torch.tensor([3, 2])
    x, s = torch.randn(5, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    q = torch.randn(5, 2, 8, requires_grad=True)
    order = torch.randperm(5)
    arguments = {
        "affine_rows": (x, s, s.detach().clone().requires_grad_(), n),
        "gate_rows": (x, x.detach().clone().requires_grad_(), s, n),
        "sum_rows": (x.detach(), n),
        "permute_rows": (x, order, torch.argsort(order)),
        "ragged_attention": (q, q.detach().clone().requires_grad_(), q.detach().clone().requires_grad_(), n),
    }[op]
    torch.library.opcheck(getattr(torch.ops.mmflow, op).default, arguments)


def test_attention_counts_its_flops() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    q = torch.randn(7, 2, 8, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = ragged.ragged_attention(q, q, q, torch.tensor([3, 4]))
        out.sum().backward()
    assert counter.get_total_flops() == (2 * 2 + 5 * 2) * (9 + 16) * 16
