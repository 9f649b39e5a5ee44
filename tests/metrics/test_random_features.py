"""Distances on random features: closed forms, and that they grow with what is wrong."""

import numpy as np
import pytest

from mmflow.metrics.distance import frechet_distance, kernel_distance
from mmflow.metrics.random_features import RandomFeatures
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
