"""What is in a picture of the shapes world: every object's shape, colour and place, from the pixels alone.

Objects are what differs from the border's colour. Each gets the palette colour nearest to its core, a soft mask between
background and that colour, and the shape whose template, drawn by the same renderer, has the best soft IoU with it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mmflow.shapes.layout import radius_range
from mmflow.shapes.render import Floats, coverage
from mmflow.shapes.vocabulary import COLORS, PALETTE, SHAPES

Mask = NDArray[np.bool_]

FOREGROUND = 14.0  # CIE76 distance to the background; the palette is at least 33.5 away from every background
KNOWN = 0.78  # soft IoU below which a shape is "unknown": noisy or soft true shapes stay above 0.8, blobs lie at 0.55
CORE = 0.9  # a pixel this near to the strongest of its neighbours is no anti-aliased edge
SECOND = 0.18  # a second colour with this share of the core means two objects that touch
GRID = 24  # side of a template
SHIFTS = tuple((x / 3, y / 3) for x in range(3) for y in range(3))  # of a template against the pixels
BLURS = (0.0, 0.7)  # px: soft templates keep small soft squares from reading as circles
SCALES = (0.9, 1.0, 1.2)  # template radii beside those of `radius_range`; clips shrink and grow past it
EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Detection:
    """One object found in a picture.

    Attributes:
        shape: a name of `SHAPES`, or "unknown".
        color: a name of `COLORS`.
        score: soft IoU with the best template, 0..1; confidence in GenEval's rules.
        box: (x0, y0, x1, y1) in pixels, right and lower edge exclusive.
        centre: (x, y) of the mass, in pixels from the upper left corner; pixel centres are at +0.5.
        area: mass, in pixels.
    """

    shape: str
    color: str
    score: float
    box: tuple[int, int, int, int]
    centre: tuple[float, float]
    area: float

    @property
    def name(self) -> str:
        """The class that GenEval's rules ask for."""
        return self.shape


@lru_cache(maxsize=1)
def _linear() -> Floats:
    """sRGB byte -> linear light."""
    value = np.arange(256) / 255
    return np.asarray(np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4))


# rows X, Y, Z of linear sRGB, divided by the white point D65
_XYZ = np.array(
    [(0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041)]
)
_TO_XYZ = (_XYZ / np.array([[0.95047], [1.0], [1.08883]])).T
_TO_LAB = np.array([(0, 116, 0), (500, -500, 0), (0, 200, -200)], dtype=np.float64).T


def lab(image: NDArray[np.uint8]) -> Floats:
    """CIELAB (D65) of sRGB bytes; both (..., 3)."""
    xyz = _linear()[image] @ _TO_XYZ
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.asarray(root @ _TO_LAB - np.array([16.0, 0.0, 0.0]))


@lru_cache(maxsize=256)
def _stretch(length: int) -> Floats:
    """(GRID, length) weights of bilinear resampling, pixel centres aligned."""
    position = np.clip((np.arange(GRID) + 0.5) * length / GRID - 0.5, 0, length - 1)
    low = np.minimum(position.astype(int), max(0, length - 2))
    weights = np.zeros((GRID, length))
    weights[np.arange(GRID), low] = 1 - (position - low)
    weights[np.arange(GRID), np.minimum(low + 1, length - 1)] += position - low
    return weights


def _box(mask: Mask) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) around a mask that is not empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _normal(alpha: Floats, box: tuple[int, int, int, int]) -> tuple[Floats, float]:
    """The box of `alpha` stretched to a flat (GRID * GRID,), and the box's width over its height."""
    x0, y0, x1, y1 = box
    stretched = _stretch(y1 - y0) @ alpha[y0:y1, x0:x1] @ _stretch(x1 - x0).T
    return stretched.ravel(), (x1 - x0) / (y1 - y0)


@lru_cache(maxsize=16)
def _templates(size: int, shapes: tuple[str, ...]) -> tuple[NDArray[np.float32], Floats, Floats, list[str]]:
    """Templates (n, GRID * GRID), their sums (n,), aspect ratios (n,) and shapes, sized as on a canvas of `size`."""
    smallest, largest = radius_range(size)
    radii = (smallest * SCALES[0], smallest, (smallest + largest) / 2, largest * SCALES[1], largest * SCALES[2])
    grids, aspects, names = [], [], []
    for shape in shapes:
        for radius in radii:
            for dx, dy in SHIFTS:
                side = int(2 * radius) + 8
                where = np.array([side / 2 + dx]), np.array([side / 2 + dy])
                sharp = coverage(shape, *where, np.array([radius]), side)[0][0]
                for blur in BLURS:
                    alpha = ndimage.gaussian_filter(sharp, blur)
                    grid, aspect = _normal(alpha, _box(alpha > 0.5))
                    grids.append(grid)
                    aspects.append(aspect)
                    names.append(shape)
    stacked = np.stack(grids)
    return stacked.astype(np.float32), stacked.sum(axis=1), np.array(aspects), names


def _largest(mask: Mask) -> Mask | None:
    """The biggest 8-connected part of a mask, or None if it is empty."""
    parts, count = ndimage.label(mask, EIGHT)
    if count == 0:
        return None
    return mask if count == 1 else np.asarray(parts == 1 + np.bincount(parts.ravel())[1:].argmax())


@dataclass(frozen=True)
class _Look:
    """What it takes to judge one component: the vocabulary, the palette in Lab and the scale."""

    size: int
    shapes: tuple[str, ...]
    colors: tuple[str, ...]
    inks: Floats
    least: float


def _parts(values: Floats, mask: Mask, look: _Look) -> list[tuple[int, Mask]]:
    """Split a component into (colour, mask): one, or several where objects of different colours touch.

    Args:
        values: (h, w, 3) Lab minus the background's.
        mask: (h, w) the component.
    """
    strength = np.linalg.norm(values, axis=-1) * mask
    core = mask & (strength >= CORE * ndimage.maximum_filter(strength, 3))
    labels = ((values[..., None, :] - look.inks) ** 2).sum(-1).argmin(-1)
    counts = np.bincount(labels[core], minlength=len(look.inks))
    share = max(8.0, SECOND * core.sum())
    found = [int(color) for color in counts.argsort()[::-1] if counts[color] >= share] or [int(counts.argmax())]
    if len(found) == 1:
        return [(found[0], mask)]
    pieces = ((color, _largest(ndimage.binary_opening(mask & (labels == color)))) for color in found)
    return [(color, piece) for color, piece in pieces if piece is not None and piece.sum() >= look.least]


def _judge(values: Floats, color: int, mask: Mask, corner: tuple[int, int], look: _Look) -> Detection | None:
    """The object of one colour under a mask, or None if there is too little of it; `corner` is the crop's (x, y)."""
    ink = look.inks[color]
    same = mask & (np.linalg.norm(values - ink, axis=-1) < FOREGROUND)
    way = np.median(values[same], axis=0) if same.any() else ink
    near = ndimage.binary_dilation(mask, EIGHT)
    alpha = np.clip(values @ way / (way @ way), 0, 1) * near
    hard = _largest(alpha > 0.5)
    if hard is None or hard.sum() < look.least:
        return None
    alpha = alpha * ndimage.binary_dilation(hard, EIGHT)
    x0, y0, x1, y1 = box = _box(hard)
    grid, aspect = _normal(alpha, box)
    templates, mass, aspects, names = _templates(look.size, look.shapes)
    common = np.minimum(templates, grid.astype(np.float32)).sum(axis=1)
    overlap = common / (mass + grid.sum() - common)
    overlap *= np.minimum(aspect / aspects, aspects / aspect)
    best = int(overlap.argmax())
    score, area = float(overlap[best]), float(alpha.sum())
    ys, xs = np.arange(alpha.shape[0]) + 0.5, np.arange(alpha.shape[1]) + 0.5
    centre = (corner[0] + float(alpha.sum(0) @ xs) / area, corner[1] + float(alpha.sum(1) @ ys) / area)
    shape = names[best] if score >= KNOWN else "unknown"
    place = (corner[0] + x0, corner[1] + y0, corner[0] + x1, corner[1] + y1)
    return Detection(shape, look.colors[color], score, place, centre, area)


def detect(
    image: NDArray[np.uint8],
    *,
    shapes: tuple[str, ...] = SHAPES,
    colors: tuple[str, ...] = COLORS,
    median: bool = False,
) -> list[Detection]:
    """Every object in a picture, unknown shapes included.

    Args:
        image: uint8 RGB (H, W, 3), 32 px or more; thresholds follow the shorter side.
        shapes, colors: the names to choose from.
        median: take the 3x3 median first, for noisy pictures.

    Raises:
        ValueError: if the picture is no uint8 (H, W, 3) of at least 32 px.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 32:
        raise ValueError(f"detect needs uint8 (H, W, 3) of at least 32 px, got {image.dtype} {image.shape}")
    if median:
        image = ndimage.median_filter(image, size=(3, 3, 1))
    size = min(image.shape[:2])
    inks = lab(np.array([PALETTE[name] for name in colors], dtype=np.uint8))
    values = lab(image)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    ground = np.median(border, axis=0)
    values = values - ground
    look = _Look(size, tuple(shapes), tuple(colors), inks - ground, 12 + 8 * (size - 32) / 32)
    components, _ = ndimage.label((values * values).sum(-1) > FOREGROUND**2, EIGHT)
    found = []
    for index, (rows, columns) in enumerate(ndimage.find_objects(components), start=1):
        top, left = max(0, rows.start - 2), max(0, columns.start - 2)
        crop = slice(top, rows.stop + 2), slice(left, columns.stop + 2)
        mask = components[crop] == index
        if mask.sum() < look.least:
            continue
        for color, part in _parts(values[crop], mask, look):
            detection = _judge(values[crop], color, part, (left, top), look)
            if detection is not None:
                found.append(detection)
    return found
