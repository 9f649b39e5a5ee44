"""Where objects go: candidates are drawn many at a time, the first that fits is taken; where none does, the corners do.

Every length follows the canvas: radius 7..10 px at 64 px and 5..7 at 32, centres at least 1.26 (r1 + r2) + 2 apart
(1.26 covers a square's corner), and 1 px left free at the border.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mmflow.shapes.vocabulary import Motion

Floats = NDArray[np.float64]
Length = TypeVar("Length", float, Floats)
Rule = Callable[[Floats], NDArray[np.bool_]]

CANDIDATES = 128
ROUNDS = 12
MARGIN = 1.0
CLEAR = 0.45  # across a relation, objects differ by less than this share of what they differ along it
TRAVEL = {"": (0.26, 0.49), "slowly": (0.26, 0.33), "quickly": (0.42, 0.49)}
"""Way of a moving object over the whole clip, in canvas sides: fewer frames mean faster motion, never less of it."""
GROWTH = (1.45, 1.7)  # ratio of the radii at the two ends of "growing" and "shrinking"
SMALLEST = 0.9  # two objects of a clip may have radii down to this share of the smallest, or some would never fit
LARGEST = 1.2  # radius at the large end of growing and shrinking, in largest radii
HEADING = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def radius_range(size: int) -> tuple[float, float]:
    """Smallest and largest radius, in pixels, on a canvas of `size`."""
    if size >= 64:
        return 7 * size / 64, 10 * size / 64
    return 5 + 2 * (size - 32) / 32, 7 + 3 * (size - 32) / 32


def clearance(reach: Length) -> Length:
    """Least distance in pixels between the centres of two objects whose radii add up to `reach`."""
    return 1.26 * reach + 2


def _apart(centers: Floats, radii: Floats) -> NDArray[np.bool_]:
    """Which candidates keep all their objects apart in all frames; centers (K, n, ..., 2), radii (K, n, ...)."""
    fits = np.ones(len(centers), dtype=bool)
    for i in range(centers.shape[1]):
        for j in range(i):
            way = centers[:, i] - centers[:, j]
            far = (way * way).sum(-1) >= clearance(radii[:, i] + radii[:, j]) ** 2
            fits &= far.reshape(len(far), -1).all(axis=1)
    return fits


def along(relation: str) -> Rule:
    """Candidates (K, 2, 2) whose first object stands clearly in `relation` to the second, and in no other relation."""
    axis = 0 if relation in ("left of", "right of") else 1
    sign = -1 if relation in ("left of", "above") else 1

    def rule(centers: Floats) -> NDArray[np.bool_]:
        way = centers[:, 0] - centers[:, 1]
        return np.asarray(np.abs(way[:, 1 - axis]) <= CLEAR * sign * way[:, axis])

    return rule


def _in_corners(rng: np.random.Generator, count: int, size: int, relation: str) -> tuple[Floats, Floats]:
    """Up to four smallest objects near different corners; with a relation, one before the other on a common line."""
    radius = radius_range(size)[0]
    low, high = radius + MARGIN, size - radius - MARGIN
    slack = max(0.0, (high - low - clearance(2 * radius)) / 2)
    corners = np.array([(low, low), (high, high), (high, low), (low, high)])
    order = rng.permutation(4)[:count]
    centers = corners[order] + slack * rng.random((count, 2)) * np.sign(size / 2 - corners[order])
    if relation:
        axis = 0 if relation in ("left of", "right of") else 1
        centers[:, 1 - axis] = low + (high - low) * rng.random()
        centers[:, axis] = (low, high) if relation in ("left of", "above") else (high, low)
    return centers, np.full(count, radius)


def scatter(rng: np.random.Generator, count: int, size: int, relation: str = "") -> tuple[Floats, Floats]:
    """Centres (count, 2) and radii (count,) in pixels of 1 to 4 objects, the first two in `relation`, if any."""
    smallest, largest = radius_range(size)
    rounds = 1 if count == 1 else ROUNDS
    for turn in range(rounds):
        batch = 1 if count == 1 else CANDIDATES
        upper = largest - (largest - smallest) * turn / max(1, rounds - 1)
        radii = smallest + (upper - smallest) * rng.random((batch, count))
        border = (radii + MARGIN)[:, :, None]
        centers = border + (size - 2 * border) * rng.random((batch, count, 2))
        fits = _apart(centers, radii)
        if relation:
            fits &= along(relation)(centers)
        first = int(fits.argmax())
        if fits[first]:
            return centers[first], radii[first]
    return _in_corners(rng, count, size, relation)


def at_place(rng: np.random.Generator, place: str, size: int) -> tuple[Floats, Floats]:
    """Centre (1, 2) and radius (1,) of one object in the middle or clearly in a corner's quadrant."""
    smallest, largest = radius_range(size)
    radius = smallest + (largest - smallest) * rng.random()
    low, high = radius + MARGIN, max(radius + MARGIN, 0.36 * size)
    where = np.empty(2)
    for axis, (near, far) in enumerate((("left", "right"), ("top", "bottom"))):
        if near in place:
            where[axis] = low + (high - low) * rng.random()
        elif far in place:
            where[axis] = size - low - (high - low) * rng.random()
        else:
            where[axis] = size * (0.5 + 0.12 * (rng.random() - 0.5))
    return where[None], np.array([radius])


def _between(low: float, high: float, u: Floats) -> Floats:
    return low + (high - low) * u


def _routes(
    rng: np.random.Generator, motions: tuple[Motion, ...], size: int, upper: float, batch: int
) -> tuple[Floats, Floats]:
    """Start and end of candidate clips: centers (batch, n, 2 ends, 2) and radii (batch, n, 2 ends)."""
    count = len(motions)
    lowest = radius_range(size)[0] * (SMALLEST if count > 1 else 1)
    u = rng.random((batch, count, 5))
    radii = np.repeat(_between(lowest, upper, u[:, :, :1]), 2, axis=2)
    travel = np.zeros((batch, count, 2))
    for index, (verb, speed) in enumerate(motions):
        if verb in HEADING:
            reach = _between(*TRAVEL[speed], u[:, index, 1]) * size
            travel[:, index] = reach[:, None] * np.array(HEADING[verb])
        elif verb in ("grow", "shrink"):
            ratio = _between(*GROWTH, u[:, index, 2])
            smaller = np.minimum(radii[:, index, 0], LARGEST * radius_range(size)[1] / ratio)
            radii[:, index, int(verb == "grow")] = smaller * ratio
            radii[:, index, int(verb == "shrink")] = smaller
    border = radii.max(axis=2)[:, :, None] + MARGIN
    low, high = border + np.maximum(0, -travel), size - border - np.maximum(0, travel)
    start = low + np.maximum(0, high - low) * u[:, :, 3:]
    return np.stack([start, start + travel], axis=2), radii


def _in_lanes(rng: np.random.Generator, motions: tuple[Motion, ...], size: int) -> tuple[Floats, Floats]:
    """Two smallest objects, each keeping to the outer edges of its own corner."""
    lowest = radius_range(size)[0] * SMALLEST
    centers, radii = _routes(rng, motions, size, lowest, 1)
    for index, (verb, _) in enumerate(motions):
        border = float(radii[0, index].max()) + MARGIN
        home = border if index == 0 else size - border
        way = TRAVEL[""][0] * size
        ends = np.full((2, 2), home)
        if verb in HEADING:
            axis = 0 if HEADING[verb][0] else 1
            inner = home + way if index == 0 else home - way
            ends[:, axis] = sorted((home, inner), reverse=sum(HEADING[verb]) < 0)
        centers[0, index] = ends
    return centers, radii


def routes(rng: np.random.Generator, motions: tuple[Motion, ...], frames: int, size: int) -> tuple[Floats, Floats]:
    """Centres (n, frames, 2) and radii (n, frames), in pixels, of one or two objects that move at constant speed.

    Two objects must leave their speeds open: side by side there is room for any two directions, but not for any speeds.
    """
    smallest, largest = radius_range(size)
    progress = np.linspace(0, 1, frames)

    def unroll(ends: Floats) -> Floats:
        """(..., 2 ends, *) -> (..., frames, *), the axis of the ends being the third."""
        weight = progress.reshape(-1, *[1] * (ends.ndim - 3))
        return ends[:, :, :1] * (1 - weight) + ends[:, :, 1:] * weight

    if len(motions) == 1:
        centers, radii = _routes(rng, motions, size, largest, 1)
        return unroll(centers)[0], unroll(radii)[0]
    floor = SMALLEST * smallest
    for turn in range(ROUNDS):
        upper = largest - (largest - floor) * turn / (ROUNDS - 1)
        ends, sizes = _routes(rng, motions, size, upper, CANDIDATES // 2)
        centers, radii = unroll(ends), unroll(sizes)
        fits = _apart(centers, radii)
        first = int(fits.argmax())
        if fits[first]:
            return centers[first], radii[first]
    ends, sizes = _in_lanes(rng, motions, size)
    return unroll(ends)[0], unroll(sizes)[0]
