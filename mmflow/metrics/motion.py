"""Does a clip show the motion that its prompt asks for, and does its object stay itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmflow.shapes.tracking import Track

PRESENT = 0.75  # share of the frames that an object must be seen in
SMOOTH = 6 / 64  # largest second difference of a smooth track, in canvas sides; drawn clips stay below 2 / 64

Metadata = Mapping[str, Any]


def _is(track: Track, wanted: Metadata) -> bool:
    return bool(track.shape == wanted["class"] and wanted.get("color", track.color) == track.color)


def judge_motion(metadata: Metadata, tracks: Sequence[Track], speed: bool = False) -> tuple[bool, str]:
    """Does the clip show every wanted object, shape and colour, doing what it should, and if not, why.

    Args:
        metadata: of a prompt with the tag `motion`.
        tracks: of the clip, see `tracking.follow`.
        speed: must "slowly" and "quickly" hold, too?

    Returns:
        (correct, reason); the reason of a correct clip is "".
    """
    for wanted in metadata["include"]:
        track = next((track for track in tracks if track.presence >= PRESENT and _is(track, wanted)), None)
        name = " ".join(word for word in (wanted.get("color", ""), wanted["class"]) if word)
        if track is None:
            return False, f"no {name} in {PRESENT:.0%} of the frames"
        motion = track.motion
        if motion.verb != wanted["motion"]:
            return False, f"expected {name}: {wanted['motion']}, found {motion.verb}"
        if speed and wanted.get("speed", motion.speed) != motion.speed:
            return False, f"expected {name}: {wanted['speed']}, found {motion.speed or 'no motion'}"
    return True, ""


def consistency(metadata: Metadata, tracks: Sequence[Track]) -> float:
    """Share of the frames that show the prompt's first object with its shape and colour, 0..1, in the best track."""
    wanted = metadata["include"][0]
    name, color = wanted["class"], wanted.get("color")
    shares = [
        sum(seen.shape == name and color in (None, seen.color) for _, seen in track.sightings) / track.frames
        for track in tracks
    ]
    return max(shares, default=0.0)


def smooth(tracks: Sequence[Track]) -> bool:
    """Is there an object, and does none that stays for most of the clip jump?"""
    staying = [track for track in tracks if track.presence >= PRESENT]
    return bool(staying) and all(track.jerk < SMOOTH * track.size for track in staying)


def steadiness(frames: NDArray[np.uint8]) -> float:
    """VBench's temporal flickering, 0..1, 1 = nothing changes: for prompts that ask for stillness only.

    Args:
        frames: uint8 (T, H, W, 3), T >= 2.
    """
    if len(frames) < 2:
        raise ValueError(f"flickering needs at least 2 frames, got {len(frames)}")
    change = np.abs(np.diff(frames.astype(np.float64), axis=0)).mean()
    return float((255 - change) / 255)
