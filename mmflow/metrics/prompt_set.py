"""What pictures are asked for in a comparison, as one kind of list."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmflow.batch import Request
from mmflow.metrics.prompt_file import read_prompt_file as read_prompt_file


@dataclass(frozen=True)
class Asked:
    """One picture or clip to make, and what it will be judged by."""

    request: Request
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """GenEval's, where there is one; `split` tells prompts apart that training never showed."""


@dataclass(frozen=True)
class PromptSet:
    """A list of pictures and clips to make.

    Attributes:
        name: of it, for people.
        asked: in order; their indices are their places.
    """

    name: str
    asked: tuple[Asked, ...]

    def digest(self) -> str:
        """First 16 digits of a SHA-256 over all that is asked."""
        text = json.dumps([[vars(a.request), dict(a.metadata)] for a in self.asked], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def prompt_set(
    name: str,
    prompts: Iterable[tuple[str, Mapping[str, Any]]],
    shape: Callable[[Mapping[str, Any]], tuple[int, int, int]],
    images: int = 1,
    seed: int = 0,
) -> PromptSet:
    """`images` of every prompt.

    Noise is named by prompt and seed, so image j of a prompt has the seed `seed` + j whatever its neighbours are; a
    prompt that comes again goes on counting, since it is to be another picture.

    Args:
        name: for people.
        prompts: each with its metadata; `seed` and `negative_prompt` of it are that prompt's own.
        shape: frames, height and width in pixels of a prompt's pictures.
        images: of each.
        seed: of the first.
    """
    asked: list[Asked] = []
    seen: Counter[str] = Counter()
    for prompt, metadata in prompts:
        for _ in range(images):
            first = int(metadata.get("seed", seed))
            negative = metadata.get("negative_prompt")
            request = Request(len(asked), prompt, first + seen[prompt], *shape(metadata), negative_prompt=negative)
            seen[prompt] += 1
            asked.append(Asked(request, metadata))
    return PromptSet(name, tuple(asked))
