import numpy as np
import pytest

from mmflow.shapes import World
from mmflow.shapes.tracking import Track, follow

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up", "grow": "shrink", "shrink": "grow"}
SMALL = World(
    size=32,
    shapes=("circle", "square", "triangle", "cross"),
    colors=("red", "green", "blue", "yellow", "white", "black"),
    max_count=3,
    frames=8,
)


def by_object(tracks: list[Track]) -> dict[tuple[str, str], Track]:
    return {(track.shape, track.color): track for track in tracks}


@pytest.mark.parametrize(
    "world",
    [World(), SMALL, World(size=32, frames=8), World(size=32, frames=4), World(size=64, frames=4)],
    ids=["64x16", "small", "32x8", "32x4", "64x4"],
)
def test_clean_clips_are_read_without_error(world: World) -> None:
    for index in range(45):
        item = world.clip(21, ("train", "comp_motion", "comp_pair")[index % 3], index)
        tracks = follow(item.frames, shapes=world.shapes, colors=world.colors)
        found = by_object(tracks)
        assert len(tracks) == len(item.objects) == len(found), item.caption
        for each in item.objects:
            track = found[each.shape, each.color]
            assert track.motion.verb == each.motion.verb, item.caption
            assert each.motion.speed in ("", track.motion.speed), item.caption
            assert track.presence == 1
            assert {seen.shape for _, seen in track.sightings} == {each.shape}
            assert track.jerk < 0.5


def test_reversed_clips_read_reversed() -> None:
    for index in range(60):
        item = SMALL.clip(22, "train", index)
        found = by_object(follow(item.frames[::-1].copy()))
        for each in item.objects:
            verb = each.motion.verb
            assert found[each.shape, each.color].motion.verb == OPPOSITE.get(verb, verb)


def test_a_missing_frame_does_not_break_a_track() -> None:
    item = SMALL.clip(23, "train", 0)
    frames = item.frames.copy()
    frames[3] = frames[0, 0, 0]
    tracks = follow(frames)
    assert len(tracks) == len(item.objects)
    assert all(track.presence == 7 / 8 for track in tracks)


def test_swapped_frames_are_rough() -> None:
    world = World(frames=8)
    item = next(
        clip for clip in (world.clip(0, "train", i) for i in range(200)) if clip.objects[0].motion.speed == "quickly"
    )
    frames = item.frames.copy()
    frames[[2, 5]] = frames[[5, 2]]
    (track,) = follow(frames)
    assert track.jerk >= 6


def test_a_picture_is_no_clip() -> None:
    with pytest.raises(ValueError, match=r"\(1, 32, 32, 3\)"):
        follow(SMALL.picture(0, "train", 0).frames)
    assert follow(np.full((4, 32, 32, 3), 128, np.uint8)) == []
