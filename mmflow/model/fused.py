"""What lies between the matrix products, in few passes over memory: GELU, the heads' norm, and norm with modulation.

Each is one op that keeps its input for the backward and nothing in between, and on a CPU goes through its rows in
pieces that stay in the cache. torch's own tanh GELU takes five times as long as its erf on a CPU, and its RMS norm
there is six passes forward and twelve back. The compiler fuses such things itself, so inside a compiled block plain
torch is used.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

from mmflow.model.ragged import affine_rows, sum_rows

PIECE = 1 << 16
"""Numbers that a CPU takes at a time: with what is computed from them they fit the second cache."""
SLOPE = 2 * (2 / torch.pi) ** 0.5
CUBIC = 0.044715

aten = torch.ops.aten


def _pieces(x: Tensor) -> Iterator[slice]:
    """Rows that are taken at a time: few on a CPU, all of them elsewhere."""
    rows = len(x) if x.device.type != "cpu" else max(1, PIECE * len(x) // max(x.numel(), 1))
    for start in range(0, len(x), max(rows, 1)):
        yield slice(start, start + rows)


def _exact(x: Tensor) -> Tensor:
    """In the dtype that sums are taken in."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


# --- GELU -------------------------------------------------------------------------------------------------------------


def gelu_tanh(x: Float[Tensor, "R F"]) -> Float[Tensor, "R F"]:
    """x / 2 (1 + tanh(u)) = x sigmoid(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks and Gimpel 2016)."""
    if torch.compiler.is_compiling() or x.device.type not in ("cpu", "meta"):
        return F.gelu(x, approximate="tanh")
    out: Tensor = gelu_op(x)
    return out


def _gate(x: Tensor, squared: Tensor) -> Tensor:
    """sigmoid(2 u)."""
    return squared.mul(SLOPE * CUBIC).add_(SLOPE).mul_(x).sigmoid_()


@torch.library.custom_op("mmflow::gelu_tanh", mutates_args=())
def gelu_op(x: Tensor) -> Tensor:
    """`gelu_tanh` in pieces."""
    out = torch.empty_like(x)
    for rows in _pieces(x):
        piece = _exact(x[rows])
        out[rows] = _gate(piece, piece.square()).mul_(piece)
    return out


@gelu_op.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("mmflow::gelu_tanh_backward", mutates_args=())
def gelu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """grad s (1 + (1 - s) x 2 du/dx) with s = sigmoid(2 u)."""
    out = torch.empty_like(x)
    for rows in _pieces(x):
        piece = _exact(x[rows])
        squared = piece.square()
        gate = _gate(piece, squared)
        slope = squared.mul_(3 * SLOPE * CUBIC).add_(SLOPE).mul_(piece)
        out[rows] = torch.addcmul(slope, slope, gate, value=-1).add_(1).mul_(gate).mul_(_exact(grad[rows]))
    return out


@gelu_backward.register_fake
def _(grad: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _keep_input(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


gelu_op.register_autograd(lambda ctx, grad: gelu_backward(grad, *ctx.saved_tensors), setup_context=_keep_input)


class _GeluLinear(torch.autograd.Function):
    """Linear(GELU(x)) that keeps x alone: its GELU, as large again, is computed anew in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, tanh: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.tanh, ctx.bias_dtype = tanh, bias.dtype
        return F.linear(_gelu(x, tanh), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        dw = (grad.mT @ _gelu(x, ctx.tanh).to(grad.dtype)).to(weight.dtype)
        slope = (grad @ weight.to(grad.dtype)).to(x.dtype)
        db = grad.sum(0).to(ctx.bias_dtype)
        if ctx.tanh and x.device.type in ("cpu", "meta"):
            return gelu_backward(slope, x), dw, db, None
        return aten.gelu_backward(slope, x, approximate="tanh" if ctx.tanh else "none"), dw, db, None


def _gelu(x: Tensor, tanh: bool) -> Tensor:
    return gelu_tanh(x) if tanh else F.gelu(x)


def gelu_linear(
    x: Float[Tensor, "R F"], weight: Float[Tensor, "D F"], bias: Float[Tensor, " D"], tanh: bool
) -> Float[Tensor, "R D"]:
    """W GELU(x) + b.

    Args:
        x: rows before the activation.
        weight: W.
        bias: b.
        tanh: GELU's tanh approximation.
    """
    if torch.compiler.is_compiling():
        return F.linear(_gelu(x, tanh), weight, bias)  # the compiler decides itself what to keep
    out: Tensor = _GeluLinear.apply(x, weight, bias, tanh)
    return out


# --- the heads' norm --------------------------------------------------------------------------------------------------


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


# --- norm and modulation ----------------------------------------------------------------------------------------------


def modulated(
    x: Float[Tensor, "R D"],
    shift: Float[Tensor, "B D"],
    scale: Float[Tensor, "B D"],
    lengths: Int[Tensor, " B"],
    eps: float,
) -> Float[Tensor, "R D"]:
    """LayerNorm without affine, then x (1 + scale) + shift per sample; `lengths` rows each (host)."""
    out: Tensor = modulate_op(x, shift, scale, lengths, eps)[0]
    return out


@torch.library.custom_op("mmflow::modulate", mutates_args=())
def modulate_op(x: Tensor, shift: Tensor, scale: Tensor, lengths: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The modulated rows, rounded once, and the norm's mean and inverse deviation of each row."""
    exact = _exact(x)
    normed, mean, inverse = aten.native_layer_norm(exact, x.shape[-1:], None, None, eps)
    shift, scale = shift.to(exact.dtype), scale.to(exact.dtype)
    return affine_rows(normed, shift, scale, lengths).to(x.dtype), mean, inverse


@modulate_op.register_fake
def _(x: Tensor, shift: Tensor, scale: Tensor, lengths: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    _, mean, inverse = aten.native_layer_norm(_exact(x), x.shape[-1:], None, None, eps)
    return torch.empty_like(x), mean, inverse


@torch.library.custom_op("mmflow::modulate_backward", mutates_args=())
def modulate_backward(
    grad: Tensor, x: Tensor, scale: Tensor, mean: Tensor, inverse: Tensor, lengths: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by x, shift and scale; the normalised rows are computed again."""
    width, exact, grad = x.shape[-1:], _exact(x), _exact(grad)
    normed = aten.native_layer_norm(exact, width, None, None, eps)[0]
    dscale = sum_rows(normed.mul_(grad), lengths)
    wide = scale.to(exact.dtype)
    slope = affine_rows(grad, torch.zeros_like(wide), wide, lengths)
    masks = [True, False, False]
    dx = aten.native_layer_norm_backward(slope, exact, width, mean, inverse, None, None, masks)[0]
    return dx.to(x.dtype), sum_rows(grad, lengths).to(scale.dtype), dscale.to(scale.dtype)


@modulate_backward.register_fake
def _(
    grad: Tensor, x: Tensor, scale: Tensor, mean: Tensor, inverse: Tensor, lengths: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(scale), torch.empty_like(scale)


def _modulate_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, _, scale, lengths, ctx.eps = inputs
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.save_for_backward(x, scale, output[1], output[2], lengths)


def _modulate_gradients(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, scale, mean, inverse, lengths = ctx.saved_tensors
    return *modulate_backward(grad.contiguous(), x, scale, mean, inverse, lengths, ctx.eps), None, None


modulate_op.register_autograd(_modulate_gradients, setup_context=_modulate_setup)
