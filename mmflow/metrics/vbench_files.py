"""VBench's own files: clips named by their prompt, and the results that its evaluator writes.

ROOT/PROMPT-0.mp4           five of each prompt, numbered
*_eval_results.json         {"dimension": [score, [{"video_path": ..., "video_results": ...}]], ...}
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmflow.metrics.features import Frames
from mmflow.metrics.prompt_names import check_names
from mmflow.metrics.store import Store, some
from mmflow.metrics.vbench import DIMENSIONS


def write_layout(store: Store, root: Path, write: Callable[[Path, Frames], Any]) -> int:
    """Writes a whole store as the official evaluator reads it; the number of clips.

    Args:
        store: of clips.
        root: a new folder.
        write: an MP4 of that name.

    Raises:
        ValueError: if samples are missing or too many, one is a picture, a prompt cannot be a name, or `root` holds
            clips already.
    """
    store.require_whole()
    pictures = [place for place, asked in enumerate(store.asked) if asked.request.frames == 1]
    if pictures:
        raise ValueError(f"{store.folder}: VBench is of clips; places {some(pictures)} are pictures")
    prompts = store.prompts()
    numbers: Counter[str] = Counter()
    names = {}
    for place, prompt in enumerate(prompts):
        names[place] = f"{prompt}-{numbers[prompt]}.mp4"
        numbers[prompt] += 1
    check_names(names, prompts, root)
    if any(root.glob("*.mp4")):
        raise ValueError(f"{root} holds clips already, which would be scored with these: name a new folder")
    for place, name in names.items():
        write(root / name, store.read(place))
    return len(names)


def read_results(paths: Sequence[str | Path]) -> dict[str, float]:
    """Dimension -> score, of one or several results of the official evaluator.

    Raises:
        ValueError: naming the file, if it is none, or a dimension comes twice.
    """
    found: dict[str, float] = {}
    for path in paths:
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: no results of VBench can be read there: {error}") from error
        if not isinstance(content, dict) or not content:
            raise ValueError(f"{path}: expected an object of dimensions")
        for name, value in content.items():
            score = value[0] if isinstance(value, list) and value else value
            if name not in DIMENSIONS or isinstance(score, bool) or not isinstance(score, int | float):
                raise ValueError(f"{path}: {name!r}: {score!r} is no score of one of {', '.join(DIMENSIONS)}")
            if name in found:
                raise ValueError(f"{path}: {name} has been read before")
            found[name] = float(score)
    return found
