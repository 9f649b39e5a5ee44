"""What pictures are asked for in a comparison: prompt files of all the common benchmarks, as one kind of list."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmflow.batch import Request


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
        prompts: each with its metadata.
        shape: frames, height and width in pixels of a prompt's pictures.
        images: of each.
        seed: of the first.
    """
    asked: list[Asked] = []
    seen: Counter[str] = Counter()
    for prompt, metadata in prompts:
        for _ in range(images):
            request = Request(len(asked), prompt, seed + seen[prompt], *shape(metadata))
            seen[prompt] += 1
            asked.append(Asked(request, metadata))
    return PromptSet(name, tuple(asked))


def read_prompt_file(path: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """Prompts with their metadata, in the file's order.

    .txt    one per line (T2I-CompBench)
    .jsonl  one object with `prompt` per line; the rest is metadata (GenEval's evaluation_metadata.jsonl)
    .json   a list of texts (HPD), or of objects with `prompt` or `prompt_en` (ImageReward, VBench)
    .tsv    a header with `Prompt` (PartiPrompts); quotes are part of the text

    Raises:
        ValueError: naming file and line, if it is missing, empty or none of these.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt set {path} cannot be read as UTF-8 text: {error}") from error
    lines = text.splitlines()
    match path.suffix.lower():
        case ".txt":
            found: list[tuple[str, dict[str, Any]]] = [(line.strip(), {}) for line in lines if line.strip()]
        case ".jsonl":
            found = [_of_json(_json(x, path, n), path, n) for n, x in enumerate(lines, 1) if x.strip()]
        case ".json":
            found = [_of_json(each, path, n) for n, each in enumerate(_json(text, path, 1), 1)]
        case ".tsv":
            rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
            if rows and "Prompt" not in rows[0]:
                raise ValueError(f"prompt set {path}: its header has no column `Prompt`, only {', '.join(rows[0])}")
            found = [(row["Prompt"], {k: v for k, v in row.items() if k != "Prompt"}) for row in rows]
        case other:
            raise ValueError(f"prompt set {path}: a .txt, .jsonl, .json or .tsv is wanted, not {other or 'no suffix'}")
    if not found:
        raise ValueError(f"prompt set {path}: holds no prompt")
    return found


def _json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"prompt set {path}, line {line}: not JSON ({error})") from error


def _of_json(value: Any, path: Path, number: int) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    key = next((key for key in ("prompt", "prompt_en") if isinstance(value, dict) and key in value), None)
    if key is None or not isinstance(value[key], str):
        raise ValueError(f"prompt set {path}, entry {number}: expected a text or an object with `prompt`")
    return value[key], value
