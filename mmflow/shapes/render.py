"""Drawing: exact box-filtered coverage of a shape, at any centre and radius, by looking up an integral image.

A shape is a silhouette in the unit square [-1, 1] x [-1, 1] (x right, y down), drawn once on a fine grid whose integral
image S answers "how much of the shape lies in this rectangle" with four reads. The alpha of a pixel is that amount over
the pixel's area: no supersampling, so a picture costs microseconds.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mmflow.shapes.vocabulary import RGB, SHAPES

Floats = NDArray[np.float64]

CELLS = 512  # cells along the unit square; at radius 10 px one pixel spans 26 of them
SUBCELLS = 4  # samples per cell side: a cell holds its coverage, so edges are good to 1/1024 of the radius

SQUARE_HALF = 0.886  # gives the square the area of the circle
CROSS_HALF = 0.38  # half the width of an arm
RING_HOLE = 0.5
DIAMOND_HALF = 0.75
TRIANGLE_HALF, TRIANGLE_BASE = 0.98, 0.8  # apex at (0, -1), base from (-0.98, 0.8) to (0.98, 0.8)


def _heart(x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Inside the curve (16 sin^3 t, 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t), box centred, width scaled to 2."""

    def height(t: Floats) -> Floats:
        return np.asarray(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))

    upper = np.arcsin(np.cbrt(np.minimum(np.abs(x), 1)))  # x = sin^3 t has one t per side of pi/2: lobe and point
    middle = (height(np.linspace(0, np.pi / 2, 1001)).max() - 17) / 2  # the lowest point is -17
    up = middle - 16 * y
    return np.asarray((np.abs(x) <= 1) & (up <= height(upper)) & (up >= height(np.pi - upper)))


def inside(shape: str, x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Which of the points (x, y), in units of the radius with y down, lie in the shape."""
    ax, ay = np.abs(x), np.abs(y)
    match shape:
        case "circle":
            return x * x + y * y <= 1
        case "square":
            return np.maximum(ax, ay) <= SQUARE_HALF
        case "triangle":
            return (y <= TRIANGLE_BASE) & (ax * (1 + TRIANGLE_BASE) <= TRIANGLE_HALF * (y + 1))
        case "cross":
            return (np.minimum(ax, ay) <= CROSS_HALF) & (np.maximum(ax, ay) <= 1)
        case "diamond":
            return ax / DIAMOND_HALF + ay <= 1
        case "ring":
            squared = x * x + y * y
            return (squared <= 1) & (squared >= RING_HOLE**2)
        case "heart":
            return _heart(x, y)
    raise ValueError(f"unknown shape {shape!r}; the shapes are {', '.join(SHAPES)}")


@lru_cache(maxsize=len(SHAPES))
def _integral(shape: str) -> Floats:
    """S[i, j] = cells of the shape above row i and left of column j, (CELLS + 1, CELLS + 1)."""
    count = CELLS * SUBCELLS
    points: Floats = (np.arange(count, dtype=np.float64) + 0.5) * (2 / count) - 1
    rows = [
        inside(shape, points[None, :], band[:, None]).reshape(SUBCELLS, CELLS, SUBCELLS).mean(axis=(0, 2))
        for band in points.reshape(CELLS, SUBCELLS)  # one row of cells at a time keeps the fine grid out of memory
    ]
    table = np.zeros((CELLS + 1, CELLS + 1))
    table[1:, 1:] = np.cumsum(np.cumsum(np.stack(rows), axis=0), axis=1)
    return table


def _edges(first: NDArray[np.int64], pixels: int, centre: Floats, radius: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Cell index and fraction of the pixel edges first..first+pixels of each frame, both (T, pixels + 1)."""
    position = (first[:, None] + np.arange(pixels + 1) - centre[:, None]) / radius[:, None]
    cell = np.clip((position + 1) * (CELLS / 2), 0, CELLS)
    index = np.minimum(cell.astype(np.intp), CELLS - 1)
    return index, cell - index


def coverage(
    shape: str, x: Floats, y: Floats, radius: Floats, size: int
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """The share of each pixel that the shape covers, in a patch just large enough for it, one patch per frame.

    Args:
        shape: a name of `SHAPES`.
        x, y: (T,) centre in pixels; (0, 0) is the canvas' upper left corner, a pixel's centre is at +0.5.
        radius: (T,) pixels, > 0; the shape lies within `radius` of its centre along both axes.
        size: side of the square canvas; patches are kept inside it.

    Returns:
        alpha (T, P, P) in [0, 1], and the patches' first column (T,) and first row (T,).
    """
    widest = float(radius.max())
    pixels = min(size, int(np.ceil(2 * widest)) + 1)
    left = np.clip(np.floor(x - widest), 0, size - pixels).astype(np.int64)
    top = np.clip(np.floor(y - widest), 0, size - pixels).astype(np.int64)
    columns, across = _edges(left, pixels, x, radius)
    rows, down = _edges(top, pixels, y, radius)
    table = _integral(shape).ravel()
    corner = rows[:, :, None] * (CELLS + 1) + columns[:, None, :]
    across, down = across[:, None, :], down[:, :, None]
    upper = table[corner] * (1 - across) + table[corner + 1] * across
    lower = table[corner + (CELLS + 1)] * (1 - across) + table[corner + (CELLS + 2)] * across
    amount = upper * (1 - down) + lower * down
    alpha = np.diff(np.diff(amount, axis=1), axis=2) * (2 * radius / CELLS)[:, None, None] ** 2
    return np.clip(alpha, 0, 1), left, top


def canvas(frames: int, size: int, background: RGB) -> NDArray[np.uint8]:
    """Empty frames of one colour, uint8 (T, size, size, 3)."""
    blank = np.empty((frames, size, size, 3), dtype=np.uint8)
    blank[:] = background
    return blank


def paint(frames: NDArray[np.uint8], shape: str, color: RGB, centers: Floats, radii: Floats) -> None:
    """Draw one object over all frames, in place.

    Args:
        frames: uint8 (T, H, H, 3).
        color: sRGB, 0..255.
        centers: (T, 2) as (x, y) in pixels.
        radii: (T,) pixels.
    """
    alpha, left, top = coverage(shape, centers[:, 0], centers[:, 1], radii, frames.shape[1])
    pixels, ink = alpha.shape[1], np.array(color, dtype=np.float64)
    for frame, cover, column, row in zip(frames, alpha, left.tolist(), top.tolist(), strict=True):
        patch = frame[row : row + pixels, column : column + pixels]
        patch[:] = np.rint(patch + cover[:, :, None] * (ink - patch))
