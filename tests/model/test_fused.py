"""The fused operations between the products against plain torch, value and gradients."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from mmflow.model import fused

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


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_gelu(dtype: torch.dtype) -> None:
    x = (4 * torch.randn(37, 12, dtype=torch.float64)).to(dtype).requires_grad_()
    close(gradients(fused.gelu_tanh(x), x), gradients(F.gelu(x, approximate="tanh"), x))
    ends = torch.tensor([[-1e4, -30.0, 0.0, 30.0, 1e4]], dtype=dtype)
    assert torch.equal(fused.gelu_tanh(ends), ends.clamp(min=0))


@pytest.mark.parametrize("tanh", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_linear_of_gelu_keeps_its_input_only(tanh: bool, half: bool) -> None:
    x, weight, bias = (torch.randn(*s, requires_grad=True) for s in ((9, 12), (5, 12), (5,)))
    kept: list[torch.Tensor] = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        out = fused.gelu_linear(x, weight, bias, tanh)
    assert [t.shape for t in kept] == [x.shape, weight.shape]
    plain = F.linear(F.gelu(x, approximate="tanh" if tanh else "none"), weight, bias)
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


@pytest.mark.parametrize("lengths", [[4, 4], [1, 0, 6], [5], [], [1 + i % 3 for i in range(40)]], ids=str)
def test_norm_and_modulation(lengths: list[int]) -> None:
    n = torch.tensor(lengths, dtype=torch.int64)
    x = torch.randn(int(n.sum()), 6, dtype=torch.float64, requires_grad=True)
    shift, scale = (torch.randn(len(lengths), 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    index = torch.arange(len(lengths)).repeat_interleave(n)
    plain = F.layer_norm(x, (6,), eps=EPS) * (1 + scale[index]) + shift[index]
    close(gradients(fused.modulated(x, shift, scale, n, EPS), x, shift, scale), gradients(plain, x, shift, scale))


def test_modulation_in_bf16_is_rounded_once() -> None:
    n = torch.tensor([3, 5])
    x = torch.randn(8, 64).bfloat16().requires_grad_()
    shift, scale = (torch.randn(2, 64).bfloat16().requires_grad_() for _ in range(2))
    wide = [v.detach().float().requires_grad_() for v in (x, shift, scale)]
    out, expected = fused.modulated(x, shift, scale, n, EPS), fused.modulated(*wide, n, EPS)
    assert torch.equal(out, expected.bfloat16())
    found = torch.autograd.grad(out.float().sin().sum(), (x, shift, scale))
    for mine, theirs in zip(found, torch.autograd.grad(expected.sin().sum(), wide), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_shapes_and_dtypes_are_known_without_computing(dtype: torch.dtype) -> None:
    x, weight, per_sample = torch.randn(6, 2, 4, dtype=dtype), torch.ones(4), torch.randn(2, 8, dtype=dtype)
    calls = [
        (fused.gelu_op, (x.flatten(1),)),
        (fused.head_norm_op, (x, weight, EPS)),
        (fused.modulate_op, (x.flatten(1), per_sample, per_sample, torch.tensor([2, 4]), EPS)),
    ]
    for op, arguments in calls:
        torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))
