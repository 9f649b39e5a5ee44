import numpy as np
import pytest

from mmflow.metrics.motion import consistency, judge_motion, smooth, steadiness
from mmflow.shapes import World
from mmflow.shapes.tracking import follow

WORLD = World(size=32, frames=8)
RIGHT = {"class": "circle", "count": 1, "color": "blue", "motion": "right", "speed": "slowly"}
PROMPT = {"tag": "motion", "include": [RIGHT], "prompt": "a video of a blue circle moving slowly right"}
CLIP = WORLD.illustrate(PROMPT, 0).frames


def test_the_right_clip_is_right() -> None:
    tracks = follow(CLIP)
    assert judge_motion(PROMPT, tracks, speed=True) == (True, "")
    assert consistency(PROMPT, tracks) == 1
    assert smooth(tracks)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"motion": "left"}, "expected blue circle: left, found right"),
        ({"class": "square"}, "no blue square"),
        ({"color": "green"}, "no green circle"),
        ({"speed": "quickly"}, "expected blue circle: quickly, found slowly"),
    ],
)
def test_one_wrong_word_is_wrong(change: dict, reason: str) -> None:
    right, why = judge_motion({**PROMPT, "include": [{**RIGHT, **change}]}, follow(CLIP), speed=True)
    assert not right and reason in why


def test_backwards_is_wrong() -> None:
    assert not judge_motion(PROMPT, follow(CLIP[::-1].copy()))[0]


def test_an_object_that_changes_is_inconsistent() -> None:
    red = WORLD.illustrate({**PROMPT, "include": [{**RIGHT, "color": "white"}]}, 0).frames
    mixed = np.concatenate([CLIP[:5], red[5:]])
    assert consistency(PROMPT, follow(mixed)) == pytest.approx(5 / 8)
    assert consistency(PROMPT, []) == 0


def test_jumps_and_empty_clips_are_not_smooth() -> None:
    quick = {**PROMPT, "include": [{**RIGHT, "speed": "quickly"}], "prompt": "quickly"}
    frames = WORLD.illustrate(quick, 0).frames.copy()
    assert smooth(follow(frames))
    frames[[1, 6]] = frames[[6, 1]]
    assert not smooth(follow(frames))
    assert not smooth([])


def test_steadiness_is_vbench_flickering() -> None:
    still = np.full((4, 32, 32, 3), 100, np.uint8)
    assert steadiness(still) == 1
    still[1::2] += 51
    assert steadiness(still) == pytest.approx(0.8)
    with pytest.raises(ValueError, match="got 1"):
        steadiness(still[:1])
