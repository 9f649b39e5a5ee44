"""Proxies without weights, for the runs of tests: how red a picture is, and one that is never there."""

from collections.abc import Sequence
from typing import Any, final

from mmflow.metrics.features import Floats, Pictures
from mmflow.metrics.proxy import AbstractProxy


@final
class Redness(AbstractProxy):
    """Share of red in a picture."""

    @property
    def name(self) -> str:
        return "redness"

    def identity(self) -> dict[str, Any]:
        return {"proxy": "redness"}

    def absent(self) -> str | None:
        return None

    def to(self, device: str) -> None:
        """It works on the host."""

    def of_pictures(self, pictures: Pictures, prompts: Sequence[str]) -> Floats:
        mean: Floats = pictures.astype("float64").mean((1, 2))
        red: Floats = mean[:, 0] / (mean.sum(1) + 1)
        return red


@final
class Absent(AbstractProxy):
    """Has no weights."""

    @property
    def name(self) -> str:
        return "absent"

    def identity(self) -> dict[str, Any]:
        return {}

    def absent(self) -> str | None:
        return "no weights at ./weights/none"

    def to(self, device: str) -> None:
        raise AssertionError("it is not there")

    def of_pictures(self, pictures: Pictures, prompts: Sequence[str]) -> Floats:
        raise AssertionError("it is not there")
