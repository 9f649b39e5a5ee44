"""GenEval's rules (djghosh13/geneval, MIT), over the detections of any detector.

A prompt's metadata says what must be there (`include`: class, count, colour, position relative to an earlier entry)
and what must not (`exclude`: a class from some count on). Objects are taken in the order of the detector's confidence:
extra objects do no harm unless they are excluded.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

THRESHOLD = 0.3
COUNT_THRESHOLD = 0.9
POSITION_THRESHOLD = 0.1
MOST_PER_CLASS = 16

Metadata = Mapping[str, Any]


@runtime_checkable
class Found(Protocol):
    """One object of a detector."""

    @property
    def name(self) -> str:
        """Its class."""

    @property
    def color(self) -> str:
        """Its colour."""

    @property
    def score(self) -> float:
        """Confidence, 0..1."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) in pixels."""


def relations(one: Found, two: Found, threshold: float = POSITION_THRESHOLD) -> set[str]:
    """How `one` stands to `two`: none, one or two (diagonally) of "left of", "right of", "above", "below".

    The offset of the boxes' centres is shortened by `threshold` times the sum of the boxes' sides, and compared with
    half the distance of the centres, which is not shortened.
    """
    a, b = np.array([one.box, two.box], dtype=np.float64).reshape(2, 2, 2)
    offset = a.mean(axis=0) - b.mean(axis=0)
    sides = np.abs(a[1] - a[0]) + np.abs(b[1] - b[0])
    revised = np.maximum(np.abs(offset) - threshold * sides, 0) * np.sign(offset)
    if np.all(np.abs(revised) < 1e-3):
        return set()
    dx, dy = (revised / np.linalg.norm(offset)).tolist()
    truth = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {relation for relation, holds in truth.items() if holds}


def _by_class(detections: Iterable[Found], threshold: float) -> dict[str, list[Found]]:
    """The confident detections of every class, most confident first."""
    classes: dict[str, list[Found]] = {}
    for found in sorted(detections, key=lambda found: -found.score):
        if found.score > threshold:
            classes.setdefault(found.name, []).append(found)
    return {name: objects[:MOST_PER_CLASS] for name, objects in classes.items()}


def _complaint(
    wanted: Metadata, objects: Sequence[Found], groups: Sequence[Sequence[Found] | None], threshold: float
) -> str:
    """Why `objects`, the best of their class, are not what one entry of `include` wants; "" if they are."""
    name, count = wanted["class"], wanted["count"]
    if len(objects) < count:
        return f"expected {name}>={count}, found {len(objects)}"
    if "color" in wanted:
        colors = [found.color for found in objects]
        if colors.count(wanted["color"]) < count:
            return f"expected {wanted['color']} {name}>={count}, found {', '.join(colors)}"
    if "position" in wanted:
        relation, index = wanted["position"]
        targets = groups[index]
        if targets is None:
            return f"no target for {name} to be {relation}"
        for found in objects:
            for target in targets:
                true = relations(found, target, threshold)
                if relation not in true:
                    return f"expected {name} {relation} target, found {' and '.join(sorted(true)) or 'no relation'}"
    return ""


def judge(
    metadata: Metadata,
    detections: Sequence[Found],
    threshold: float = THRESHOLD,
    count_threshold: float = COUNT_THRESHOLD,
    position_threshold: float = POSITION_THRESHOLD,
) -> tuple[bool, str]:
    """Does a picture fulfil its prompt, and if not, why.

    Args:
        metadata: a line of GenEval's evaluation_metadata.jsonl.
        detections: all objects of the picture.
        threshold: confidence from which an object counts.
        count_threshold: the same in prompts of the tag `counting`.
        position_threshold: see `relations`.

    Returns:
        (correct, reason); the reason of a correct picture is "".
    """
    classes = _by_class(detections, count_threshold if metadata["tag"] == "counting" else threshold)
    groups: list[Sequence[Found] | None] = []
    reasons: list[str] = []
    for wanted in metadata.get("include", ()):
        best = classes.get(wanted["class"], [])[: wanted["count"]]
        complaint = _complaint(wanted, best, groups, position_threshold)
        groups.append(None if complaint else best)
        reasons += [complaint] if complaint else []
    for unwanted in metadata.get("exclude", ()):
        found = len(classes.get(unwanted["class"], []))
        if found >= unwanted["count"]:
            reasons.append(f"expected {unwanted['class']}<{unwanted['count']}, found {found}")
    return not reasons, "\n".join(reasons)


def exact(metadata: Metadata, detections: Sequence[Found]) -> bool:
    """Does the picture hold the prompt's objects, colours included, and nothing else? Stricter than GenEval."""
    wanted: Counter[str] = Counter()
    for entry in metadata.get("include", ()):
        wanted[entry["class"]] += entry["count"]
    if Counter(found.name for found in detections) != wanted:
        return False
    colored = Counter((found.name, found.color) for found in detections)
    told = [entry for entry in metadata["include"] if "color" in entry]
    return all(colored[entry["class"], entry["color"]] >= entry["count"] for entry in told)


def overall(counts: Mapping[str, tuple[int, int]]) -> float:
    """The unweighted mean of the six tags' rates, 0..1.

    Args:
        counts: (correct images, images) of every tag.

    Raises:
        ValueError: unless exactly the six tags are there, each with an image.
    """
    if set(counts) != set(TASKS) or any(n <= 0 for _, n in counts.values()):
        raise ValueError(f"the overall score needs images of all of {', '.join(TASKS)}; got {dict(counts)}")
    return sum(hits / n for hits, n in counts.values()) / len(TASKS)
