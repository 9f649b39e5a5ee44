"""Embeddings of time and place (paper section 5.3.2; released code for the layout of the sinusoids)."""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

MAX_PERIOD = 10_000
PAPER_GRID = 16
"""Positions are stated in the units of a 16 x 16 grid, that of 256 x 256 pixels (paper: 256 / S)."""


def time_sinusoid(t: Float[Tensor, " B"], width: int = 256) -> Float[Tensor, "B {width}"]:
    """[cos | sin] of 1000 t over `width` / 2 frequencies from 1 to 1 / 10000, in fp32."""
    half = width // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = 1000 * t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def axis_sinusoid(position: Float[Tensor, " n"], width: int) -> Float[Tensor, "n {width}"]:
    """[sin | cos] of a coordinate over `width` / 2 frequencies omega_k = 10000^(-2k / width)."""
    half = width // 2
    frequencies = MAX_PERIOD ** -(torch.arange(half, dtype=torch.float64, device=position.device) / half)
    angles = position.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def centred(num: int, base: float, device: torch.device | None = None) -> Float[Tensor, " num"]:
    """pos(i) = (i - (num - base) / 2) 16 / base (section 5.3.2): interpolated and extended, centred on the base
    grid.
    """
    return (torch.arange(num, dtype=torch.float32, device=device) - (num - base) / 2) * (PAPER_GRID / base)


def plane_positions(
    grid: tuple[int, int], base: tuple[float, float], width: int, device: torch.device | None = None
) -> Float[Tensor, "rows columns {width}"]:
    """Fixed positions of one frame. The first half of the channels encodes the column, the second the row.

    Args:
        grid: tokens along (height, width).
        base: tokens along (height, width) at the training resolution.
        width: model width D, divisible by 4.
        device: where to build it.
    """
    rows, columns = grid
    row = axis_sinusoid(centred(rows, base[0], device), width // 2)
    column = axis_sinusoid(centred(columns, base[1], device), width // 2)
    return torch.cat([column[None].expand(rows, -1, -1), row[:, None].expand(-1, columns, -1)], -1)


def centre_crop(table: Float[Tensor, "m m D"], grid: tuple[int, int]) -> Float[Tensor, "rows columns D"]:
    """The middle of a table of positions, as the released models take it; an odd rest is cut at the end."""
    top, left = ((len(table) - n) // 2 for n in grid)
    return table[top : top + grid[0], left : left + grid[1]]


def over_time(plane: Float[Tensor, "rows columns D"], frames: int) -> Float[Tensor, "N D"]:
    """Positions of a clip's tokens, frame by frame, row by row, from those of one frame.

    Frame f adds [sin(w f), cos(w f) - 1], which is zero at the first: a picture's positions are those of a clip's
    first frame.
    """
    time = axis_sinusoid(torch.arange(frames, dtype=torch.float32, device=plane.device), plane.shape[-1])
    time = time - time[:1]
    return (time[:, None, None] + plane[None]).flatten(0, 2)


def rotary_angles(
    grid: tuple[int, int, int], head_width: int, device: torch.device | None = None
) -> Float[Tensor, "N {head_width}//2"]:
    """Angles by which the pairs of a head's channels turn at each token, frame by frame, row by row.

    A quarter of the pairs turns with the frame, three eighths each with the row and the column, by 2.5 down to 1/16
    radians per patch (Su et al. 2021, arXiv 2104.09864, one axis at a time). Rows and columns count from the middle, so
    that the context, which does not turn, sees a small and a large picture alike.

    Args:
        grid: tokens along (time, height, width).
        head_width: E, divisible by 16.
        device: where to build them.
    """
    places = [
        torch.arange(n, dtype=torch.float32, device=device) - (0 if axis == 0 else (n - 1) / 2)
        for axis, n in enumerate(grid)
    ]
    pairs = (head_width // 8, 3 * head_width // 16, 3 * head_width // 16)
    speeds = [2.5 * 40 ** -torch.linspace(0, 1, n, device=device) for n in pairs]
    meshed = torch.meshgrid(*places, indexing="ij")
    return torch.cat([m.reshape(-1, 1) * s for m, s in zip(meshed, speeds, strict=True)], 1)


class TimeEmbedding(nn.Module):
    """Sinusoid of t, then Linear-SiLU-Linear. The sinusoid is fp32 whatever the model's dtype."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(256, width), nn.Linear(width, width)

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        out: Tensor = self.second(F.silu(self.first(time_sinusoid(t).to(self.first.weight.dtype))))
        return out


class PooledEmbedding(nn.Module):
    """Pooled text features through Linear-SiLU-Linear."""

    def __init__(self, pooled_width: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(pooled_width, width), nn.Linear(width, width)

    def forward(self, pooled: Float[Tensor, "B V"]) -> Float[Tensor, "B D"]:
        out: Tensor = self.second(F.silu(self.first(pooled.to(self.first.weight.dtype))))
        return out
