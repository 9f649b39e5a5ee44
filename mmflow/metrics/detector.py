"""Who finds the objects that GenEval's rules are applied to."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, final

from mmflow.metrics.features import AbstractJudge, Frames
from mmflow.metrics.geneval import COUNT_THRESHOLD, THRESHOLD, Found
from mmflow.shapes.detector import KNOWN, detect
from mmflow.shapes.world import World


class AbstractDetector(AbstractJudge):
    """Pictures to objects with class, colour, confidence and box."""

    threshold: float = THRESHOLD
    """Confidence from which an object counts."""
    count_threshold: float = COUNT_THRESHOLD
    """The same in prompts of the tag `counting`."""

    @abstractmethod
    def objects(self, pictures: Sequence[Frames]) -> list[list[Found]]:
        """The objects of each picture, uint8 (H, W, 3)."""


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
