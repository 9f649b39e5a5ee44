import numpy as np
import pytest

from mmflow.shapes import CLIP_SPLITS, PICTURE_SPLITS, ClipMix, Item, PictureMix, World
from mmflow.shapes.layout import clearance

WORLD = World()
SMALL = World(
    size=32,
    shapes=("circle", "square", "triangle", "cross"),
    colors=("red", "green", "blue", "yellow", "white", "black"),
    max_count=3,
    frames=8,
)


def same(one: Item, two: Item) -> bool:
    return bool((one.frames == two.frames).all()) and one.caption == two.caption and one.metadata == two.metadata


@pytest.mark.parametrize("split", PICTURE_SPLITS)
def test_a_picture_is_a_pure_function_of_its_name(split: str) -> None:
    forward = [SMALL.picture(3, split, index) for index in range(20)]
    fresh = World(**{name: getattr(SMALL, name) for name in ("size", "shapes", "colors", "max_count", "frames")})
    backward = [fresh.picture(3, split, index) for index in reversed(range(20))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))


@pytest.mark.parametrize("split", CLIP_SPLITS)
def test_a_clip_is_a_pure_function_of_its_name(split: str) -> None:
    forward = [SMALL.clip(3, split, index) for index in range(10)]
    backward = [SMALL.clip(3, split, index) for index in reversed(range(10))][::-1]
    assert all(same(a, b) for a, b in zip(forward, backward, strict=True))


def test_seed_split_and_index_all_matter() -> None:
    items = [WORLD.picture(0, "train", 0), WORLD.picture(1, "train", 0), WORLD.picture(0, "val_iid", 0)]
    items.append(WORLD.picture(0, "train", 1))
    assert len({item.frames.tobytes() for item in items}) == 4


def test_a_known_item_never_changes() -> None:
    """Old results stay comparable: a change of any draw must be deliberate."""
    items = [SMALL.picture(0, "train", index).caption for index in range(4)]
    assert items == [
        "a red triangle below a green cross",
        "a picture of a square",
        "a photo of a blue triangle",
        "a blue cross left of a white triangle",
    ]


@pytest.mark.parametrize("size", [32, 48, 64, 128])
@pytest.mark.parametrize("frames", [4, 16])
def test_objects_stay_inside_and_apart(size: int, frames: int) -> None:
    world = World(size=size, frames=frames, clips=ClipMix(one=1, two=3))
    items = [world.picture(0, "train", i) for i in range(150)] + [world.clip(0, "train", i) for i in range(100)]
    items += [world.picture(0, split, i) for split in ("length", "comp_count") for i in range(40)]
    for item in items:
        centers = np.stack([each.centers for each in item.objects])
        radii = np.stack([each.radii for each in item.objects])
        assert (centers - radii[..., None] >= 1 - 1e-9).all(), item.caption
        assert (centers + radii[..., None] <= size - 1 + 1e-9).all(), item.caption
        for i in range(len(centers)):
            for j in range(i):
                distance = np.linalg.norm(centers[i] - centers[j], axis=-1)
                assert (distance >= clearance(radii[i] + radii[j]) - 1e-6).all(), item.caption


@pytest.mark.parametrize("size", [32, 64])
def test_motions_are_clear_and_speeds_disjoint(size: int) -> None:
    world = World(size=size, frames=8)
    ways = {"slowly": [], "quickly": [], "": []}
    for index in range(300):
        for each in world.clip(0, "train", index).objects:
            way = np.abs(each.centers[-1] - each.centers[0]).max() / size
            ratio = each.radii[-1] / each.radii[0]
            verb, speed = each.motion
            if verb in ("left", "right", "up", "down"):
                ways[speed].append(way)
            else:
                assert way == 0
                assert {"still": ratio == 1, "grow": ratio > 1.44, "shrink": ratio < 1 / 1.44}[verb]
    assert min(ways["slowly"]) > 0.25 and max(ways["slowly"]) < 0.34 < 0.41 < min(ways["quickly"])
    assert min(ways[""]) > 0.25


def test_frames_have_the_right_form() -> None:
    assert SMALL.picture(0, "train", 0).frames.shape == (1, 32, 32, 3)
    assert SMALL.clip(0, "train", 0).frames.shape == (8, 32, 32, 3)
    assert SMALL.clip(0, "train", 0).frames.dtype == np.uint8


def test_the_mix_decides_what_comes() -> None:
    only = World(pictures=PictureMix(single=0, pair=0, count=1, relation=0, place=0), clips=ClipMix(one=0, two=1))
    assert {only.picture(0, "train", i).metadata["tag"] for i in range(50)} == {"counting"}
    assert {len(only.clip(0, "train", i).objects) for i in range(50)} == {2}
    assert only.picture(0, "comp_pair", 0).metadata["tag"] in ("colors", "color_attr")


def test_without_counting_there_are_no_counts() -> None:
    world = World(max_count=1)
    assert "counting" not in {world.picture(0, "train", i).metadata["tag"] for i in range(200)}
    with pytest.raises(ValueError, match="split 'comp_count' is empty"):
        world.picture(0, "comp_count", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shapes": ("circle", "star")}, "star; legal are circle"),
        ({"colors": ("red", "red")}, "different names"),
        ({"shapes": ("circle",)}, "at least 2"),
        ({"size": 16}, "size must be within 32 and 256, got 16"),
        ({"max_count": 5}, "got 5"),
        ({"frames": 2}, "got 2"),
        ({"paraphrase_share": 1.5}, "got 1.5"),
        ({"fps": 0.0}, "fps"),
        ({"pictures": PictureMix(0, 0, 0, 0, 0)}, "positive sum"),
        ({"shapes": ("circle", "ring"), "colors": ("red", "purple")}, "keep circle"),
    ],
)
def test_a_wrong_world_says_what_is_wrong(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        World(**arguments)


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="comp_motion"):
        WORLD.picture(0, "comp_motion", 0)
    with pytest.raises(ValueError, match="must be one of train"):
        WORLD.clip(0, "comp_count", 0)
