from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from mmflow.shapes import Item, World
from mmflow.shapes.detector import detect, lab
from mmflow.shapes.vocabulary import GROUNDS, PALETTE

SPLITS = ("val_iid", "comp_pair", "length", "comp_count")
WORLD = World()
TINY = World(size=32)


def noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.rint(image + rng.normal(0, 8, image.shape)), 0, 255).astype(np.uint8)


def blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.rint(ndimage.gaussian_filter(image.astype(float), (1, 1, 0))).astype(np.uint8)


def down2(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    half = image.reshape(image.shape[0] // 2, 2, -1, 2, 3).mean(axis=(1, 3))
    doubled = ndimage.zoom(half, (2, 2, 1), order=1, grid_mode=True, mode="nearest")
    return np.clip(np.rint(doubled), 0, 255).astype(np.uint8)


def clean(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return image


def right(item: Item, image: np.ndarray, **options) -> bool:
    found = sorted((each.shape, each.color) for each in detect(image, **options))
    return found == sorted((each.shape, each.color) for each in item.objects)


@pytest.mark.parametrize(
    ("world", "count", "damage", "least"),
    [
        (WORLD, 1000, clean, 0.999),
        (WORLD, 300, noise, 0.99),
        (WORLD, 300, blur, 0.99),
        (WORLD, 300, down2, 0.99),
        (TINY, 500, clean, 0.99),
        (TINY, 200, noise, 0.98),
        (World(size=128), 60, clean, 0.999),
    ],
)
def test_accuracy(world: World, count: int, damage: Callable, least: float) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for index in range(count):
        item = world.picture(11, SPLITS[index % 4], index)
        hits += right(item, damage(item.frames[0], rng))
    assert hits / count >= least


def test_strong_noise_is_read_through_the_median() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for index in range(100):
        item = WORLD.picture(12, SPLITS[index % 4], index)
        image = np.clip(np.rint(item.frames[0] + rng.normal(0, 16, (64, 64, 3))), 0, 255).astype(np.uint8)
        hits += right(item, image, median=True)
    assert hits >= 98


def test_places_are_right() -> None:
    for index in range(100):
        item = WORLD.picture(13, "val_iid", index)
        for found in detect(item.frames[0]):
            x, y = found.centre
            nearest = min(np.hypot(x - o.centers[0, 0], y - o.centers[0, 1]) for o in item.objects)
            assert nearest < 2.5  # the mass of a triangle or heart is a little below or above the middle of its box
            x0, y0, x1, y1 = found.box
            assert x0 < x < x1 and y0 < y < y1


def test_nothing_is_found_in_nothing() -> None:
    rng = np.random.default_rng(0)
    for size in (32, 64):
        for level in range(0, 256, 15):
            assert detect(np.full((size, size, 3), level, np.uint8)) == []
        for _ in range(15):
            found = detect(rng.integers(0, 256, (size, size, 3)).astype(np.uint8))
            assert not [each for each in found if each.shape != "unknown"]


def test_blobs_are_seldom_shapes() -> None:
    rng, known = np.random.default_rng(0), 0
    for _ in range(60):
        field = np.stack([ndimage.gaussian_filter(rng.normal(size=(64, 64)), 4, mode="wrap") for _ in range(3)], -1)
        image = np.clip(128 + 40 * field / field.std(), 0, 255).astype(np.uint8)
        known += sum(each.shape != "unknown" for each in detect(image))
    assert known / 60 <= 0.1


def test_touching_objects_of_two_colours_are_told_apart() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    image[20:36, 10:26] = PALETTE["red"]
    image[20:36, 26:42] = PALETTE["blue"]
    assert sorted((each.shape, each.color) for each in detect(image)) == [("square", "blue"), ("square", "red")]


def test_a_smaller_vocabulary_is_respected() -> None:
    ring = {"tag": "colors", "include": [{"class": "ring", "count": 1, "color": "purple"}], "prompt": "a purple ring"}
    image = WORLD.illustrate(ring, 0).frames[0]
    (full,) = detect(image)
    (small,) = detect(image, shapes=("triangle", "cross"), colors=("blue", "white"))
    assert (full.shape, full.color) == ("ring", "purple")
    assert (small.shape, small.color) == ("unknown", "blue")


def test_lab_matches_published_values() -> None:
    colors = np.array([(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)], dtype=np.uint8)
    expected = [(100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20), (32.30, 79.19, -107.86)]
    np.testing.assert_allclose(lab(colors), expected, atol=0.02)


def test_the_palette_is_far_apart() -> None:
    inks = lab(np.array(list(PALETTE.values()), dtype=np.uint8))
    grounds = lab(np.array(list(GROUNDS.values()), dtype=np.uint8))
    between = np.linalg.norm(inks[:, None] - inks[None], axis=-1) + 1e3 * np.eye(len(inks))
    assert between.min() == pytest.approx(33.6, abs=0.1)
    assert np.linalg.norm(inks[:, None] - grounds[None], axis=-1).min() == pytest.approx(33.5, abs=0.1)


def test_wrong_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(16, 64, 3\)"):
        detect(np.zeros((16, 64, 3), np.uint8))
