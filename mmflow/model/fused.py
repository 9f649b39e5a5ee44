"""What lies between matrix products, where plain torch does more than it must: the activation and the heads' norm.

A linear layer keeps its input for the backward, and behind an activation that is a tensor as large as the one before
it: here it is computed anew. torch has no fused RMS norm on a CPU (six passes forward, twelve back): here it goes
through the rows in pieces that stay in the cache. The compiler does both itself, so inside a compiled block plain torch
is used.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from mmflow.model.activation import ActivationName, activate, activation_backward

PIECE = 1 << 16
"""Numbers that a CPU takes at a time: with what is computed from them they fit the second cache."""


def _pieces(x: Tensor) -> Iterator[slice]:
    """Rows that are taken at a time: few on a CPU, all of them elsewhere."""
    rows = len(x) if x.device.type != "cpu" else max(1, PIECE * len(x) // max(x.numel(), 1))
    for start in range(0, len(x), max(rows, 1)):
        yield slice(start, start + rows)


def _exact(x: Tensor) -> Tensor:
    """In the dtype that sums are taken in."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class _ActivatedLinear(torch.autograd.Function):
    """Linear(f(x)) that keeps x alone: f(x), as large again, is computed anew in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, name: ActivationName) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.name, ctx.bias_dtype = name, bias.dtype
        return F.linear(activate(x, name), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        dw = (grad.mT @ activate(x, ctx.name).to(grad.dtype)).to(weight.dtype)
        slope = (grad @ weight.to(grad.dtype)).to(x.dtype)
        db = grad.sum(0).to(ctx.bias_dtype)
        return activation_backward(slope, x, ctx.name), dw, db, None


def activated_linear(
    x: Float[Tensor, "R F"], weight: Float[Tensor, "D F"], bias: Float[Tensor, " D"], name: ActivationName
) -> Float[Tensor, "R D"]:
    """W f(x) + b.

    Args:
        x: rows before the activation.
        weight: W.
        bias: b.
        name: f.
    """
    if torch.compiler.is_compiling():
        return F.linear(activate(x, name), weight, bias)  # the compiler decides itself what to keep
    out: Tensor = _ActivatedLinear.apply(x, weight, bias, name)
    return out


def head_norm(x: Float[Tensor, "R K E"], weight: Float[Tensor, " E"], eps: float) -> Float[Tensor, "R K E"]:
    """RMSNorm over the last axis, w x / sqrt(mean x^2 + eps)."""
    if torch.compiler.is_compiling() or x.device.type not in ("cpu", "meta"):
        # The weight is cast on purpose: an fp32 weight on a bf16 input leaves torch's fused path.
        return F.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps)
    out: Tensor = head_norm_op(x, weight, eps)[0]
    return out


@torch.library.custom_op("mmflow::head_norm", mutates_args=())
def head_norm_op(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised heads, and 1 / sqrt(mean x^2 + eps) of each (R, K)."""
    out, inverse = (torch.empty(s, dtype=d, device=x.device) for s, d in _head_norm_shapes(x))
    exact = _exact(weight)
    for rows in _pieces(x):
        piece = _exact(x[rows])
        lengths = torch.linalg.vector_norm(piece, dim=-1)
        inverse[rows] = lengths.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        out[rows] = (piece * lengths[..., None]).mul_(exact)
    return out, inverse


def _head_norm_shapes(x: Tensor) -> tuple[tuple[torch.Size, torch.dtype], tuple[torch.Size, torch.dtype]]:
    sums = torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
    return (x.shape, x.dtype), (x.shape[:-1], sums)


@head_norm_op.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    first, second = (torch.empty(s, dtype=d, device=x.device) for s, d in _head_norm_shapes(x))
    return first, second


@torch.library.custom_op("mmflow::head_norm_backward", mutates_args=())
def head_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """With r = 1 / rms: dx = r (w g - x r^2 mean(w g x)), dw = sum r g x."""
    width = x.shape[-1]
    dx, dw = torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.zeros_like(weight, dtype=inverse.dtype)
    exact = _exact(weight)
    for rows in _pieces(x):
        piece, slope, r = _exact(x[rows]), _exact(grad[rows]), inverse[rows]
        product = (slope * piece).view(-1, width)
        dw.add_(r.reshape(-1) @ product)
        mean = (product @ exact).view(r.shape).div_(width).mul_(r).mul_(r).mul_(r)
        dx[rows] = (slope * exact).mul_(r[..., None]).addcmul_(piece, mean[..., None], value=-1)
    return dx, dw.to(weight.dtype)


@head_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device), torch.empty_like(weight)


def _head_norm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, output[1])


def _head_norm_gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *head_norm_backward(grad, *ctx.saved_tensors), None


head_norm_op.register_autograd(_head_norm_gradients, setup_context=_head_norm_setup)
