"""Prompts to make: one literal prompt, a `.txt` with one per line, or a `.jsonl` with options per line."""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PromptItem:
    """One thing to make. None leaves a choice to the run's configuration."""

    prompt: str
    seed: int | None = None
    width: int | None = None
    """Pixels; so is height."""
    height: int | None = None
    frames: int | None = None
    """1 makes a picture."""
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    num_steps: int | None = None
    image: str | None = None
    """File of the picture that is to be the first frame, or, with a mask, to be filled in; so are the following."""
    last_image: str | None = None
    """The last frame of a clip."""
    video: str | None = None
    """The beginning of a clip, or, with a mask, the clip to be filled in."""
    mask: str | None = None
    """White where `image` or `video` is to be made anew, black where it is kept."""


_LEAST = {"seed": 0, "width": 1, "height": 1, "frames": 1, "num_steps": 1}
"""Whole-number keys and their smallest value."""
MEDIA = ("image", "last_image", "video", "mask")
"""Keys that name files; they are looked for beside the file of prompts."""
_TEXTS = ("prompt", "negative_prompt", *MEDIA)


def read_prompts(source: str) -> tuple[PromptItem, ...]:
    """The prompts that `source` names, in their order.

    source  a path ending in .txt (one prompt per line, blank lines skipped) or .jsonl (one object per line: `prompt`
            and any of the other fields of PromptItem); any other text is itself the prompt

    Raises:
        ValueError: naming file, line and key, if a file is missing, empty or malformed.
    """
    suffix = Path(source).suffix.lower() if "\n" not in source else ""
    if suffix not in (".txt", ".jsonl"):
        if not source.strip():
            raise ValueError("the prompt is empty: give a text, or the path of a .txt or .jsonl file")
        return (PromptItem(source.strip()),)
    try:
        lines = Path(source).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise ValueError(f"prompt file {source}: no such file (a name ending in {suffix} is read as a file)") from error
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"prompt file {source}: cannot be read as UTF-8 text: {error}") from error
    parse = _parse_json if suffix == ".jsonl" else lambda line, where: PromptItem(line)
    items = tuple(parse(line.strip(), f"{source}, line {n}") for n, line in enumerate(lines, 1) if line.strip())
    if not items:
        raise ValueError(f"prompt file {source}: holds no prompt. Write one per line")
    return items


def _parse_json(line: str, where: str) -> PromptItem:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f'{where}: not JSON ({error}). Each line is one object: {{"prompt": "a cat"}}') from error
    if not isinstance(values, dict):
        raise ValueError(f'{where}: expected an object like {{"prompt": "a cat"}}, got {type(values).__name__}')
    legal = [field.name for field in fields(PromptItem)]
    for key in values:
        if key not in legal:
            raise ValueError(f"{where}: unknown key {key!r}. Legal keys: {', '.join(legal)}")
    if values.get("prompt") is None:
        raise ValueError(f"{where}: the key 'prompt' is missing")
    return PromptItem(**{key: _checked(key, value, where) for key, value in values.items() if value is not None})


def _checked(key: str, value: Any, where: str) -> Any:
    """The value if it has the type and range of its key. A JSON true is no number, though in Python it is one."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if key in _TEXTS:
        legal, wanted = isinstance(value, str), "a text"
    elif key in _LEAST:
        legal, wanted = number and isinstance(value, int) and value >= _LEAST[key], f"a whole number >= {_LEAST[key]}"
    else:
        legal, wanted = number and math.isfinite(value), "a finite number"
    if not legal:
        raise ValueError(f"{where}: {key} must be {wanted}, got {value!r}")
    return float(value) if key == "guidance_scale" else value
