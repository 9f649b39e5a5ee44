"""How exact each part of a step is in the precision that a run has chosen: its error against fp64, part by part.

Each part is the run's own code, on random inputs of the model's width; the error is |x - x64| / |x64| in the root mean
square. What must stay fp32 whatever the precision (t, positions, the loss, the optimizer's state) is held to fp32's
standard; the rest may err as its dtype does, a few roundings long.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from mmflow.flow.objective import FlowObjective
from mmflow.model.attention import SdpaAttention
from mmflow.model.embed import plane_positions, time_sinusoid
from mmflow.model.heads import HeadNorm
from mmflow.model.segments import NORM_EPS, Segments
from mmflow.train.optim import AdamW

ROWS, TOKENS = 64, 48
EXACT = 2e-6
"""What a few roundings of fp32 come to."""


@dataclass(frozen=True)
class Part:
    """One part's verdict.

    Attributes:
        name: of the part.
        error: relative, against fp64.
        limit: what it may be.
    """

    name: str
    error: float
    limit: float

    @property
    def is_green(self) -> bool:
        return self.error <= self.limit


def audit(width: int, dtype: torch.dtype, seed: int = 0) -> list[Part]:
    """All parts.

    Args:
        width: of the model, a multiple of 64.
        dtype: of the run's arithmetic: float32, or bfloat16 under autocast.
        seed: of the inputs.
    """
    g = torch.Generator().manual_seed(seed)
    rounding = 4 * torch.finfo(dtype).eps
    checks: list[tuple[str, Callable[[torch.Generator, int, torch.dtype], tuple[Tensor, Tensor]], float]] = [
        # 1000 t is a number of up to 1000, whose last bit in fp32 is 6e-5 of an angle.
        ("t embedding", _time, 1e-4),
        ("positions", _positions, EXACT),
        ("modulation", _modulation, rounding),
        ("norms", _norms, rounding),
        ("attention", _attention, 2 * rounding),
        ("loss", _loss, EXACT),
        ("optimizer state", _optimizer, EXACT),
    ]
    parts = []
    for name, check, limit in checks:
        found, exact = check(g, width, dtype)
        error = float((found.double() - exact).norm() / exact.norm())
        parts.append(Part(name, error, limit))
    return parts


def _time(g: torch.Generator, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    t = torch.rand(ROWS, generator=g)
    angles = 1000 * t.double()[:, None] * 10_000 ** -(torch.arange(128, dtype=torch.float64) / 128)
    return time_sinusoid(t), torch.cat([angles.cos(), angles.sin()], 1)


def _positions(g: torch.Generator, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    places = torch.arange(16, dtype=torch.float64)
    frequencies = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = places[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    exact = torch.cat([axis[None].expand(16, -1, -1), axis[:, None].expand(-1, 16, -1)], -1)
    return plane_positions((16, 16), (16.0, 16.0), width), exact


def _modulation(g: torch.Generator, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x, shift, scale = (torch.randn(n, width, generator=g).to(dtype) for n in (ROWS, 2, 2))
    each = ROWS // 2
    found = Segments.of(torch.tensor([each, each])).modulate(x, shift, scale)
    wide, rows = x.double(), [v.double().repeat_interleave(each, 0) for v in (shift, scale)]
    return found, F.layer_norm(wide, (width,), eps=NORM_EPS) * (1 + rows[1]) + rows[0]


def _norms(g: torch.Generator, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = torch.randn(ROWS, width // 64, 64, generator=g).to(dtype)
    return HeadNorm()(x).detach(), F.rms_norm(x.double(), (64,), eps=NORM_EPS)


def _attention(g: torch.Generator, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    q, k, v = (torch.randn(2, TOKENS, width // 64, 64, generator=g).to(dtype) for _ in range(3))
    wide_q, wide_k, wide_v = (x.double().transpose(1, 2) for x in (q, k, v))
    return SdpaAttention().dense(q, k, v), F.scaled_dot_product_attention(wide_q, wide_k, wide_v).transpose(1, 2)


def _loss(g: torch.Generator, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x0, eps = (torch.randn(8, 4, 1, 8, 8, generator=g) for _ in range(2))
    u = torch.rand(8, generator=g)
    outputs = torch.randn(x0.shape, generator=g).to(dtype)

    def loss(kind: torch.dtype) -> Tensor:
        values = FlowObjective()(lambda z, t, c: (outputs,), (x0.to(kind),), None, u, (eps.to(kind),))
        return values[0]

    return loss(torch.float32), loss(torch.float64)


def _optimizer(g: torch.Generator, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Moments and weights after three steps on gradients down to 1e-6."""
    start = torch.randn(width, 8, generator=g)
    grads = [torch.randn(width, 8, generator=g) * 10.0**-n for n in (2, 4, 6)]

    def after(kind: torch.dtype) -> Tensor:
        layer = torch.nn.Linear(8, width, bias=False, dtype=kind)
        with torch.no_grad():
            layer.weight.copy_(start)
        optimizer = AdamW().build(layer)
        for grad in grads:
            layer.weight.grad = grad.to(kind)
            optimizer.step()
        state = optimizer.state[layer.weight]
        kept = (layer.weight.detach(), state["exp_avg"] * 1e4, state["exp_avg_sq"] * 1e6)
        return torch.cat([x.double().flatten() for x in kept])

    return after(torch.float32), after(torch.float64)
