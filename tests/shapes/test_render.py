import math

import numpy as np
import pytest

from mmflow.shapes.render import RING_HOLE, SQUARE_HALF, canvas, coverage, inside, paint
from mmflow.shapes.vocabulary import SHAPES

AREAS = {
    "circle": math.pi,
    "square": 4 * SQUARE_HALF**2,
    "triangle": 0.98 * 1.8,
    "cross": 8 * 0.38 - 4 * 0.38**2,
    "diamond": 2 * 0.75,
    "ring": math.pi * (1 - RING_HOLE**2),
    "heart": 180 * math.pi / 256,  # the curve encloses 180 pi; its half width is 16
}


def draw(shape: str, x: float, y: float, radius: float, size: int = 64):
    return coverage(shape, np.array([x]), np.array([y]), np.array([radius]), size)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("x", "y", "radius"), [(32.0, 32.0, 10.0), (20.3, 41.7, 7.13), (50.5, 9.25, 5.0)])
def test_the_mass_is_the_analytic_area(shape: str, x: float, y: float, radius: float) -> None:
    alpha, _, _ = draw(shape, x, y, radius)
    assert alpha.sum() == pytest.approx(AREAS[shape] * radius**2, rel=2e-3)


def test_a_square_is_exact_at_every_pixel() -> None:
    """Coverage of an axis-parallel square is the product of two overlaps."""
    x, y, radius = 20.37, 30.81, 8.4
    alpha, left, top = draw("square", x, y, radius)

    def overlap(first: int, centre: float) -> np.ndarray:
        pixel = first + np.arange(alpha.shape[1])
        half = SQUARE_HALF * radius
        return np.clip(np.minimum(pixel + 1, centre + half) - np.maximum(pixel, centre - half), 0, 1)

    expected = overlap(int(top[0]), y)[:, None] * overlap(int(left[0]), x)[None, :]
    np.testing.assert_allclose(alpha[0], expected, atol=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_coverage_is_box_filtering(shape: str) -> None:
    x, y, radius, fine = 20.3, 21.6, 7.7, 32
    alpha, left, top = draw(shape, x, y, radius)
    side = alpha.shape[1]
    points = (np.arange(side * fine) + 0.5) / fine
    solid = inside(shape, (left[0] + points[None, :] - x) / radius, (top[0] + points[:, None] - y) / radius)
    expected = solid.reshape(side, fine, side, fine).mean(axis=(1, 3))
    np.testing.assert_allclose(alpha[0], expected, atol=0.02)


@pytest.mark.parametrize("shape", ["circle", "square", "cross", "diamond", "ring"])
def test_symmetric_shapes_have_their_mass_at_their_centre(shape: str) -> None:
    alpha, left, top = draw(shape, 20.3, 40.8, 9.0)
    pixel = np.arange(alpha.shape[1]) + 0.5
    assert left[0] + alpha[0].sum(0) @ pixel / alpha.sum() == pytest.approx(20.3, abs=0.01)
    assert top[0] + alpha[0].sum(1) @ pixel / alpha.sum() == pytest.approx(40.8, abs=0.01)


def test_frames_are_independent() -> None:
    x, y, radius = np.array([10.0, 30.2, 50.1]), np.array([20.0, 20.5, 44.4]), np.array([7.0, 8.0, 9.5])
    together = canvas(3, 64, (128, 128, 128))
    paint(together, "heart", (214, 39, 40), np.stack([x, y], 1), radius)
    for t in range(3):
        alone = canvas(1, 64, (128, 128, 128))
        paint(alone, "heart", (214, 39, 40), np.array([[x[t], y[t]]]), radius[t : t + 1])
        np.testing.assert_array_equal(alone[0], together[t])


def test_paint_leaves_the_rest_alone() -> None:
    frames = canvas(1, 32, (150, 160, 170))
    paint(frames, "circle", (15, 15, 15), np.array([[10.0, 10.0]]), np.array([5.0]))
    assert (frames[0, 16:] == (150, 160, 170)).all() and (frames[0, 10, 10] == (15, 15, 15)).all()


def test_unknown_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown shape 'star'"):
        inside("star", np.zeros(1), np.zeros(1))
