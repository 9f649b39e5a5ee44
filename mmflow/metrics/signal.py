"""What tells during training whether pictures get better: names with values and intervals, from a few samples."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from mmflow.batch import Request
from mmflow.metrics.interval import Interval
from mmflow.metrics.proxy import AbstractProxy, summary
from mmflow.metrics.shapes_scores import score_shapes
from mmflow.shapes.world import World


@dataclass(frozen=True)
class Made:
    """A sample and what was asked for.

    Attributes:
        request: prompt, seed and size.
        frames: uint8 (T, H, W, 3).
        metadata: what it is judged by, where a prompt has any; GenEval's.
    """

    request: Request
    frames: NDArray[np.uint8]
    metadata: Mapping[str, Any] = field(default_factory=dict)


class AbstractSignal(ABC):
    """One judge of samples. A run's configuration lists those that it wants."""

    @property
    @abstractmethod
    def name(self) -> str:
        """For people, and for what it depends on in files; no two of a run share it."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What its numbers depend on beside the samples, in plain values: numbers of two identities do not compare."""

    @abstractmethod
    def absent(self) -> str | None:
        """Why it cannot judge, in one line: weights that are not there. None if it can."""

    @abstractmethod
    def to(self, device: str) -> None:
        """Where it works from now on."""

    @abstractmethod
    def __call__(self, samples: Sequence[Made]) -> dict[str, Interval]:
        """Values with 95 % intervals by name, of one set of samples."""

    @property
    @abstractmethod
    def lower_is_better(self) -> bool:
        """True of distances."""


@final
class ShapesSignal(AbstractSignal):
    """The exact scores of the shapes world: GenEval's tasks and motion.

    Args:
        world: whose shapes and colours are looked for.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def name(self) -> str:
        return "shapes"

    def identity(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self.world)))
        return {"judge": "shapes world, exact", "world": plain}

    def absent(self) -> str | None:
        return None

    def to(self, device: str) -> None:
        """It works on the host."""

    @property
    def lower_is_better(self) -> bool:
        return False

    def __call__(self, samples: Sequence[Made]) -> dict[str, Interval]:
        scores = score_shapes(self.world, [(each.metadata, each.frames) for each in samples])
        return {n: Interval(s["value"], s["low"], s["high"], int(s["n"])) for n, s in scores.items()}


@final
class ProxySignal(AbstractSignal):
    """A proxy of what people would say, as a signal: its mean with a bootstrap over prompts.

    Args:
        proxy: gives a number per sample.
    """

    def __init__(self, proxy: AbstractProxy) -> None:
        self.proxy = proxy

    @property
    def name(self) -> str:
        return self.proxy.name

    def identity(self) -> dict[str, Any]:
        return self.proxy.identity()

    def absent(self) -> str | None:
        return self.proxy.absent()

    def to(self, device: str) -> None:
        self.proxy.to(device)

    @property
    def lower_is_better(self) -> bool:
        return False

    def __call__(self, samples: Sequence[Made]) -> dict[str, Interval]:
        prompts = [each.request.prompt for each in samples]
        s: dict[str, Any] = dict(summary(self.proxy.score([each.frames for each in samples], prompts), prompts))
        return {self.proxy.name: Interval(s["value"], s["low"], s["high"], s["n"])}


def digest(requests: Sequence[Request]) -> str:
    """Short name of all that is asked for."""
    asked = json.dumps([asdict(request) for request in requests], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]
