"""What the objects of a clip do: detect in every frame, follow each object, fit lines to its place and size."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmflow.shapes.detector import Detection, detect
from mmflow.shapes.render import Floats
from mmflow.shapes.vocabulary import COLORS, SHAPES, Motion

REACH = 0.35  # an object is not found again farther away than this between two sightings, in canvas sides
OTHER = 0.15  # a changed shape or a changed colour counts as this much distance
MOVED = 0.125  # canvas sides over the clip: 8 px at 64; the world moves objects by at least 0.26 or not at all
RESIZED = 1.25  # ratio of sizes over the clip; the world resizes objects by at least 1.45 or not at all
QUICK = 0.375  # canvas sides over the clip: "slowly" is at most 0.33, "quickly" at least 0.42


@dataclass(frozen=True)
class Track:
    """One object followed through a clip.

    Attributes:
        sightings: (frame, detection), frames rising; frames in which it was not found are missing.
        frames: length of the clip.
        size: shorter side of the canvas, in pixels.
    """

    sightings: tuple[tuple[int, Detection], ...]
    frames: int
    size: int

    @property
    def shape(self) -> str:
        """The shape it has most often."""
        return Counter(seen.shape for _, seen in self.sightings).most_common(1)[0][0]

    @property
    def color(self) -> str:
        """The colour it has most often."""
        return Counter(seen.color for _, seen in self.sightings).most_common(1)[0][0]

    @property
    def presence(self) -> float:
        """Share of the frames in which it was found."""
        return len(self.sightings) / self.frames

    @property
    def centers(self) -> Floats:
        """(sightings, 2) as (x, y) in pixels."""
        return np.array([seen.centre for _, seen in self.sightings])

    def _over_clip(self, values: Floats) -> Floats:
        """What a straight line through `values`, one row per sighting, changes from the first frame to the last."""
        when = np.array([frame for frame, _ in self.sightings], dtype=float)
        when -= when.mean()
        slope = when @ (values - values.mean(axis=0)) / max(when @ when, 1e-9)
        return np.asarray(slope * (self.frames - 1))

    @property
    def travel(self) -> tuple[float, float]:
        """(x, y) displacement over the whole clip, in canvas sides; fitted, not read off the ends."""
        x, y = self._over_clip(self.centers).tolist()
        return x / self.size, y / self.size

    @property
    def growth(self) -> float:
        """Ratio of the sizes (roots of the areas) at the last and the first frame, fitted."""
        sides = np.sqrt([seen.area for _, seen in self.sightings])
        change = float(self._over_clip(sides))
        middle = float(sides.mean())
        return (middle + change / 2) / max(middle - change / 2, 1e-3)

    @property
    def motion(self) -> Motion:
        """What it does; moving objects are told to be slow or quick."""
        x, y = self.travel
        way = max(abs(x), abs(y))
        if way > MOVED:
            verb = ("right" if x > 0 else "left") if abs(x) >= abs(y) else ("down" if y > 0 else "up")
            return Motion(verb, "quickly" if way > QUICK else "slowly")
        if abs(math.log(max(self.growth, 1e-3))) > math.log(RESIZED):
            return Motion("grow" if self.growth > 1 else "shrink")
        return Motion("still")

    @property
    def jerk(self) -> float:
        """Largest second difference of the centre over successive frames, in pixels; 0 without three in a row."""
        place = {frame: np.array(seen.centre) for frame, seen in self.sightings}
        steps = [
            float(np.linalg.norm(place[t - 1] - 2 * place[t] + place[t + 1]))
            for t in place
            if t - 1 in place and t + 1 in place
        ]
        return max(steps, default=0.0)


def _distance(old: Detection, new: Detection, size: int) -> float:
    """How unlikely `new` is the same object as `old`, in canvas sides; more than REACH is another object."""
    way = math.dist(old.centre, new.centre) / size
    return way + OTHER * (old.shape != new.shape) + OTHER * (old.color != new.color)


def link(frames: Sequence[Sequence[Detection]], size: int) -> list[Track]:
    """Join the detections of successive frames, nearest first; longest tracks come first."""
    open_tracks: list[list[tuple[int, Detection]]] = []
    for time, seen in enumerate(frames):
        pairs = sorted(
            (_distance(track[-1][1], detection, size), i, j)
            for i, track in enumerate(open_tracks)
            for j, detection in enumerate(seen)
        )
        taken_tracks: set[int] = set()
        taken: set[int] = set()
        for distance, i, j in pairs:
            if distance > REACH or i in taken_tracks or j in taken:
                continue
            taken_tracks.add(i)
            taken.add(j)
            open_tracks[i].append((time, seen[j]))
        open_tracks += [[(time, detection)] for j, detection in enumerate(seen) if j not in taken]
    tracks = [Track(tuple(sightings), len(frames), size) for sightings in open_tracks]
    return sorted(tracks, key=lambda track: -track.presence)


def follow(
    frames: NDArray[np.uint8],
    *,
    shapes: tuple[str, ...] = SHAPES,
    colors: tuple[str, ...] = COLORS,
    median: bool = False,
) -> list[Track]:
    """The objects of a clip, uint8 RGB (T, H, W, 3), those seen longest first.

    Raises:
        ValueError: if it is no clip of at least two frames.
    """
    if frames.ndim != 4 or len(frames) < 2:
        raise ValueError(f"a clip is uint8 (T, H, W, 3) with at least 2 frames, got {frames.shape}")
    seen = [detect(frame, shapes=shapes, colors=colors, median=median) for frame in frames]
    return link(seen, min(frames.shape[1:3]))
