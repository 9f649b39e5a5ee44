"""Which of several captions a sample is trained with: drawn by weight, per sample and visit."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmflow import draws
from mmflow.data.container import UnreadableSample
from mmflow.draws import Key

TXT = "txt"
"""The caption in KEY.txt; any other name is one in KEY.json."""


@dataclass(frozen=True)
class CaptionMix:
    """Names of captions and their weights. The paper takes original and synthetic ones half and half (section 5.2.1).

    A caption that is empty, or that a sample does not have, is never drawn: the others share its weight.
    """

    weights: tuple[tuple[str, float], ...] = ((TXT, 1.0),)

    def __post_init__(self) -> None:
        numbers = [weight for _, weight in self.weights]
        if not numbers or not all(0 <= n < math.inf for n in numbers) or not sum(numbers):
            raise ValueError(f"data.captions: weights must be non-negative, not all zero, got {dict(self.weights)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Those that can be drawn, sorted."""
        return tuple(sorted(name for name, weight in self.weights if weight))

    @property
    def only_txt(self) -> bool:
        """Whether no .json is asked."""
        return self.names == (TXT,)

    def draw(self, captions: Mapping[str, str], seed: int, key: Key, visit: int) -> str:
        """One of a sample's captions; "" if it has none."""
        there = [(captions[name], weight) for name, weight in self.weights if weight and captions.get(name)]
        if len(there) < 2:
            return there[0][0] if there else ""
        return there[draws.choice(seed, "caption", key, visit, [weight for _, weight in there])][0]

    def read(self, txt: str, about: bytes | None) -> dict[str, str]:
        """All captions of a sample that can be drawn, empty ones left out.

        Args:
            txt: of KEY.txt.
            about: KEY.json.

        Raises:
            UnreadableSample: if KEY.json is no JSON object, or a caption in it is no text.
        """
        row = _object(about) if about else {}
        found = {name: txt if name == TXT else _text(row.get(name), name) for name in self.names}
        return {name: text for name, text in found.items() if text}


ONLY_TXT = CaptionMix()


def _object(about: bytes) -> dict[str, Any]:
    try:
        row = json.loads(about.decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UnreadableSample("caption_json", f"KEY.json is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UnreadableSample("caption_json", f"KEY.json holds {type(row).__name__}, not an object")
    return row


def _text(value: Any, name: str) -> str:
    if isinstance(value, list):  # several of one name: the first that says something
        value = next((each for each in value if each), None)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnreadableSample("caption_json", f"{name} in KEY.json is {type(value).__name__}, not a text")
    return value.strip()
