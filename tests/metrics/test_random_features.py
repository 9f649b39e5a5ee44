"""Distances on random features: closed forms, and that they grow with what is wrong."""

import numpy as np
import pytest

from mmflow.metrics.random_features import RandomFeatures, frechet_distance, kernel_distance
from mmflow.shapes.world import World

WORLD = World(size=32, shapes=("circle", "square", "triangle", "cross"), colors=("red", "green", "blue", "yellow"))


def pictures(split: str, start: int, num: int = 240) -> np.ndarray:
    return np.concatenate([WORLD.picture(0, split, i).frames for i in range(start, start + num)])


@pytest.fixture(scope="module")
def sets() -> dict[str, np.ndarray]:
    true, other = pictures("train", 0), pictures("train", 1000)
    noise = np.random.default_rng(0).normal(size=other.shape)
    blurred = (other.astype(float) + np.roll(other, 1, 1) + np.roll(other, 1, 2) + np.roll(other, 2, 1)) / 4
    return {
        "reference": true,
        "true": other,
        "blurred": blurred.astype(np.uint8),
        "noise 10": np.clip(other + 10 * noise, 0, 255).astype(np.uint8),
        "noise 40": np.clip(other + 40 * noise, 0, 255).astype(np.uint8),
        "one color missing": other[..., [0, 0, 2]],
        "few": other[:8].repeat(30, 0),
    }


@pytest.mark.parametrize(("distance", "factor"), [(frechet_distance, 1.05), (kernel_distance, 1.5)])
def test_distances_grow_with_what_is_wrong(distance, factor: float, sets: dict[str, np.ndarray]) -> None:
    features = RandomFeatures()
    reference = features(sets["reference"])
    far = {name: distance(features(each), reference) for name, each in sets.items() if name != "reference"}
    assert all(far["true"] < far[name] / factor for name in far if name != "true"), far
    assert far["noise 10"] < far["noise 40"], far


def test_features_are_each_picture_s_own_and_the_same_everywhere(sets: dict[str, np.ndarray]) -> None:
    features, few = RandomFeatures(), sets["true"][:20]
    together = features(few)
    assert together.shape == (20, 64) and np.allclose(together[7:9], features(few[7:9]), atol=1e-5)
    assert np.allclose(together, RandomFeatures()(few)) and not np.allclose(together, RandomFeatures(seed=1)(few))
    assert features(few[:0]).shape == (0, 64)


def test_frechet_distance_of_gaussians_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(20_000, 3))
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a, 2 * a + 1) == pytest.approx(3 + 3 * (1 + 4 - 2 * 2), rel=0.05)
    assert frechet_distance(a, a[::-1] + 2) == pytest.approx(12.0)
    assert np.isfinite(frechet_distance(a[:3, :1].repeat(8, 1), a[:5, :1].repeat(8, 1)))


def test_kernel_distance_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    draws = [kernel_distance(*rng.normal(size=(2, 40, 4))) for _ in range(200)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / 200**0.5
    assert kernel_distance(rng.normal(size=(40, 4)), rng.normal(size=(40, 4)) + 1) > 1


def test_one_picture_has_no_distance() -> None:
    with pytest.raises(ValueError, match="got 1 and 5"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))
