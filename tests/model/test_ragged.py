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


def test_permutation_and_its_gradient() -> None:
    order = torch.randperm(7)
    inverse = torch.argsort(order)
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(ragged.permute_rows(x, order, inverse), x[order])
    assert torch.autograd.gradcheck(lambda x: ragged.permute_rows(x, order, inverse), (x,))


@pytest.mark.parametrize("op", ["affine_rows", "gate_rows", "sum_rows", "permute_rows"])
def test_ops_are_what_the_compiler_expects(op: str) -> None:
    n = torch.tensor([3, 2])
    x, s = torch.randn(5, 4, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    order = torch.randperm(5)
    arguments = {
        "affine_rows": (x, s, s.detach().clone().requires_grad_(), n),
        "gate_rows": (x, x.detach().clone().requires_grad_(), s, n),
        "sum_rows": (x.detach(), n),
        "permute_rows": (x, order, torch.argsort(order)),
    }[op]
    torch.library.opcheck(getattr(torch.ops.mmflow, op).default, arguments)
