"""Stores written in the official layouts, and results of the official evaluators read back."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from mmflow.export import write_mp4
from mmflow.metrics import compbench_files, geneval_files, vbench_files
from mmflow.metrics.detector import Verdict
from mmflow.metrics.geneval import TASKS
from mmflow.metrics.geneval_scores import summary
from mmflow.metrics.interval import bootstrap
from mmflow.metrics.prompt_file import COMPBENCH, HPD
from mmflow.metrics.store import Store
from mmflow.metrics.vbench import aggregate

Scores = dict[str, dict[str, Any]]
LAYOUTS = ("geneval", "compbench", "vbench", "hpd")
QUALITY = 95
"""Of HPD's JPEG files; theirs are Pillow's default, 75."""


def export(store: Store, layout: str, root: Path, fps: float = 8.0) -> list[str]:
    """Writes a store as a benchmark's evaluator reads it, and what judges said of it here in the evaluator's format.

    Args:
        store: whole.
        layout: one of `LAYOUTS`.
        root: a new folder.
        fps: of clips.

    Returns:
        What was written, a line each.

    Raises:
        ValueError: if samples are missing or too many, or the layout cannot hold them.
    """
    match layout:
        case "geneval":
            lines = [f"{geneval_files.write_layout(store, root)} pictures: {root}"]
            for name, kept in _kept(store, "verdicts"):
                said = {i: Verdict(**row) for i, row in enumerate(kept["verdicts"]) if row is not None}
                path = root / f"results-{name}.jsonl"
                geneval_files.write_results(store, said, path, root)
                lines.append(f"what {name} said: {path}")
            return lines
        case "compbench":
            lines = [f"{compbench_files.write_layout(store, root)} pictures: {root}"]
            for name, kept in _kept(store, "values"):
                if name == "compbench":
                    compbench_files.write_answers(store, kept["values"], root)
                    lines.append(f"answers: {root}/CATEGORY/vqa_result.json")
            return lines
        case "vbench":
            written = vbench_files.write_layout(store, root, lambda path, frames: write_mp4(path, frames, fps))
            return [f"{written} clips: {root}"]
        case "hpd":
            return [f"{_write_hpd(store, root)} pictures: {root}"]
    raise ValueError(f"unknown layout {layout!r}; there are {', '.join(LAYOUTS)}")


def _kept(store: Store, key: str) -> list[tuple[str, dict[str, Any]]]:
    """Name and content of the store's scores that have a key, of these very samples."""
    found = []
    for path in sorted((store.folder / "scores").glob("*.json")):
        content = json.loads(path.read_text())
        if key in content and content["samples"] == json.loads(json.dumps(asdict(store.identity), default=str)):
            found.append((path.stem, content))
    return found


def _write_hpd(store: Store, root: Path) -> int:
    """STYLE/00000.jpg, numbered within the style; one picture per prompt.

    Raises:
        ValueError: if a prompt is of no style, has several pictures, or a folder holds pictures already.
    """
    store.require_whole()
    numbers: dict[str, int] = {}
    for place, asked in enumerate(store.asked):
        style = asked.metadata.get("style")
        if style not in HPD or asked.request.frames > 1:
            raise ValueError(f"{store.folder}: sample {place} is no picture of a style of HPD ({', '.join(HPD)})")
        number = numbers.get(style, 0)
        numbers[style] = number + 1
        path = root / style / f"{number:05d}.jpg"
        if path.exists():
            raise ValueError(f"{path} is there already: name a new folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(store.read(place)[0]).save(path, quality=QUALITY, subsampling=0)
    return len(store.asked)


def read_official(benchmark: str, sources: Sequence[str]) -> Scores:
    """Scores by name, of what an official evaluator has written.

    Args:
        benchmark: `geneval` (a results.jsonl), `compbench` (each CATEGORY=vqa_result.json), `vbench` (its files).
        sources: the files.

    Raises:
        ValueError: if a file is none of that kind.
    """
    match benchmark:
        case "geneval":
            if len(sources) != 1:
                raise ValueError(f"GenEval's results are one file, got {len(sources)}")
            rows = geneval_files.read_results(sources[0])
            strange = {row["tag"] for row in rows} - set(TASKS)
            if strange:
                raise ValueError(f"{sources[0]}: {', '.join(sorted(strange))} are no tags of GenEval")
            judged = [({**row["metadata"], "tag": row["tag"], "prompt": row["prompt"]}, row["correct"]) for row in rows]
            return summary("geneval", judged)
        case "compbench":
            scores: Scores = {}
            for source in sources:
                category, _, path = source.partition("=")
                if category not in COMPBENCH or not path:
                    raise ValueError(f"{source!r}: expected CATEGORY=vqa_result.json, one of {', '.join(COMPBENCH)}")
                answers = compbench_files.read_answers(path)
                # ten pictures of a prompt follow each other, as the benchmark asks
                prompts: dict[int, list[float]] = {}
                for question, answer in answers.items():
                    prompts.setdefault(question // compbench_files.IMAGES, []).append(answer)
                scores[f"compbench/{category}"] = asdict(bootstrap({category: list(prompts.values())}))
            return scores
        case "vbench":
            values = vbench_files.read_results(sources)
            totals = {f"vbench/{name}": value for name, value in aggregate(values).items()}
            named = {f"vbench/{name}": value for name, value in values.items()} | totals
            return {name: {"value": v, "low": None, "high": None, "n": None} for name, v in named.items()}
    raise ValueError(f"unknown benchmark {benchmark!r}; there are geneval, compbench and vbench")
