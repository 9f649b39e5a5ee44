"""Who says whether a picture is what its GenEval prompt asks for: a detector under GenEval's rules, or a file."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from mmflow.metrics.features import AbstractJudge, Frames
from mmflow.metrics.geneval import COUNT_THRESHOLD, MOST_PER_CLASS, THRESHOLD, Found, judge
from mmflow.metrics.store import Store
from mmflow.shapes.detector import KNOWN, detect
from mmflow.shapes.world import World


@dataclass(frozen=True)
class Verdict:
    """Of one picture.

    Attributes:
        correct: it is what was asked for.
        reason: why not, a line for each complaint; "" if it is.
        details: by class, the boxes that counted as (x0, y0, x1, y1, confidence), most confident first.
    """

    correct: bool
    reason: str
    details: Mapping[str, Sequence[Sequence[float]]]


class AbstractVerdicts(AbstractJudge):
    """Says of a store's pictures whether they are what GenEval's metadata asks for."""

    @abstractmethod
    def verdicts(self, store: Store, places: Sequence[int]) -> list[Verdict]:
        """Of the pictures at these places, in their order; of a clip its middle frame is judged.

        Raises:
            ValueError: if it cannot say.
        """


class AbstractDetector(AbstractVerdicts):
    """Pictures to objects with class, colour, confidence and box."""

    threshold: float = THRESHOLD
    """Confidence from which an object counts."""
    count_threshold: float = COUNT_THRESHOLD
    """The same in prompts of the tag `counting`."""

    @abstractmethod
    def objects(self, pictures: Sequence[Frames]) -> list[list[Found]]:
        """The objects of each picture, uint8 (H, W, 3)."""

    def verdicts(self, store: Store, places: Sequence[int]) -> list[Verdict]:
        middle = [store.read(i)[store.asked[i].request.frames // 2] for i in places]
        return [
            self._verdict(store.asked[place].metadata, found)
            for place, found in zip(places, self.objects(middle), strict=True)
        ]

    def _verdict(self, metadata: Mapping[str, Any], found: Sequence[Found]) -> Verdict:
        correct, reason = judge(metadata, found, self.threshold, self.count_threshold)
        least = self.count_threshold if metadata["tag"] == "counting" else self.threshold
        details: dict[str, list[list[float]]] = {}
        for thing in sorted(found, key=lambda thing: -thing.score):
            boxes = details.setdefault(thing.name, []) if thing.score > least else []
            if len(boxes) < MOST_PER_CLASS:
                boxes.append([*(float(x) for x in thing.box), float(thing.score)])
        return Verdict(correct, reason, details)


@final
class ShapesDetector(AbstractDetector):
    """The shapes world's own, exact on clean renders.

    Args:
        world: whose shapes and colours are looked for.
        median: filter noise first.
    """

    # Soft IoU is no calibrated confidence: the detector's own threshold stands for GenEval's 0.9.
    count_threshold = KNOWN - 1e-9

    def __init__(self, world: World, median: bool = False) -> None:
        self.world, self.median = world, median

    @property
    def name(self) -> str:
        return "geneval/shapes"

    def identity(self) -> dict[str, Any]:
        return {"detector": "shapes", "world": repr(self.world), "median": self.median}

    def absent(self) -> None:
        """It is a program."""
        return None

    def to(self, device: str) -> None:
        """Stays on the host."""

    def objects(self, pictures: Sequence[Frames]) -> list[list[Found]]:
        world = self.world
        return [list(detect(x, shapes=world.shapes, colors=world.colors, median=self.median)) for x in pictures]
