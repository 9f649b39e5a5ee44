"""What is fused between the products against plain torch, value and gradients."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mmflow.model import fused
from mmflow.model.activation import ActivationName

EPS = 1e-6
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "PIECE", 64)


def gradients(out: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    return [out.detach(), *torch.autograd.grad(torch.sin(out.double()).sum(), inputs)]


def close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        worst = TOLERANCE[ours.dtype] * max(1.0, float(theirs.abs().sum()) ** 0.5)
        torch.testing.assert_close(ours, theirs, atol=worst, rtol=0)


PLAIN: dict[ActivationName, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu_squared": lambda x: x.clamp(min=0) ** 2,
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("half", [True, False])
def test_a_linear_behind_an_activation_keeps_its_input_only(name: ActivationName, half: bool) -> None:
    x, weight, bias = (torch.randn(*s, requires_grad=True) for s in ((9, 12), (5, 12), (5,)))
    kept: list[torch.Tensor] = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        out = fused.activated_linear(x, weight, bias, name)
    assert [t.shape for t in kept] == [x.shape, weight.shape]
    plain = F.linear(PLAIN[name](x), weight, bias)
    assert out.dtype == (torch.bfloat16 if half else torch.float32)
    found = torch.autograd.grad(out.float().sin().sum(), (x, weight, bias))
    for mine, theirs in zip(found, torch.autograd.grad(plain.sin().sum(), (x, weight, bias)), strict=True):
        assert mine.dtype == theirs.dtype
        assert (mine - theirs).norm() <= (0.03 if half else 1e-5) * theirs.norm()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_head_norm_of_a_slice_of_queries_keys_and_values(dtype: torch.dtype) -> None:
    qkv = torch.randn(19, 3, 2, 8, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.linspace(0.5, 2, 8, dtype=dtype).requires_grad_()
    plain = F.rms_norm(qkv[:, 1], (8,), weight, EPS)
    close(gradients(fused.head_norm(qkv[:, 1], weight, EPS), qkv, weight), gradients(plain, qkv, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_shapes_and_dtypes_are_known_without_computing(dtype: torch.dtype) -> None:
    x, weight = torch.randn(6, 2, 4, dtype=dtype), torch.ones(4)
    torch.library.opcheck(fused.head_norm_op, (x, weight, EPS), test_utils=("test_schema", "test_faketensor"))
