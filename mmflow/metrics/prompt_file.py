"""Prompt files of all the common benchmarks, as lists of prompts with metadata."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Items = list[tuple[str, dict[str, Any]]]
COMPBENCH = ("color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex")
"""T2I-CompBench++'s categories; the prompts to score are those of CATEGORY_val.txt."""
COMPLEX = ("action", "spatial", "spatialaction")
"""Lists of CompBench's complex prompts by what they hold: complex_val_KIND.txt."""
HPD = ("anime", "concept-art", "paintings", "photo")
"""HPD's styles; each is a STYLE.json."""
SUFFIXES = ".txt, .jsonl, .json, .tsv or .csv"


def read_prompt_file(path: str | Path) -> Items:
    """Prompts with their metadata, in the file's order.

    .txt    one per line (T2I-CompBench: CATEGORY_val.txt adds `category`, lists of complex prompts beside it `kind`)
    .jsonl  one object with `prompt` per line; the rest is metadata (GenEval's evaluation_metadata.jsonl)
    .json   a list of texts (HPD: STYLE.json adds `style`), or of objects with `prompt` or `prompt_en` (ImageReward,
            VBench), or COCO's captions, of which each picture's first is taken
    .tsv    a header with `Prompt` (PartiPrompts); quotes are part of the text
    .csv    a header with `prompt`; quotes as spreadsheets write them
    folder  of CompBench's *_val.txt or HPD's *.json: all of them

    Raises:
        ValueError: naming file and line, if it is missing, empty or none of these.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt set {path} cannot be read as UTF-8 text: {error}") from error
    match path.suffix.lower():
        case ".txt":
            found = _tagged(path, [line.strip() for line in _lines(text) if line.strip()])
        case ".jsonl":
            found = [_of_json(_json(x, path, n), path, n) for n, x in enumerate(_lines(text), 1) if x.strip()]
        case ".json":
            found = _of_whole_json(_json(text, path, 1), path)
        case ".tsv":
            found = _of_rows(csv.reader(_lines(text), delimiter="\t", quoting=csv.QUOTE_NONE), path, "Prompt")
        case ".csv":
            found = _of_rows(csv.reader(io.StringIO(text, newline="")), path, "prompt")
        case other:
            raise ValueError(f"prompt set {path}: a {SUFFIXES} is wanted, not {other or 'no suffix'}")
    if not found:
        raise ValueError(f"prompt set {path}: holds no prompt")
    return found


def _lines(text: str) -> list[str]:
    """Lines as files have them: what Unicode calls a line separator is part of a prompt."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def _of_folder(path: Path) -> Items:
    names = [f"{category}_val.txt" for category in COMPBENCH] + [f"{style}.json" for style in HPD]
    files = [path / name for name in names if (path / name).is_file()]
    if not files:
        raise ValueError(f"prompt set {path}: the folder holds none of {', '.join(names)}")
    return [item for file in files for item in read_prompt_file(file)]


def _tagged(path: Path, prompts: Iterable[str]) -> Items:
    """Prompts of a .txt with what CompBench's file name says of them."""
    category = path.stem.removesuffix("_val")
    if not path.stem.endswith("_val") or category not in COMPBENCH:
        return [(prompt, {}) for prompt in prompts]
    kinds: dict[str, str] = {}
    if category == "complex":
        for kind in COMPLEX:
            listed = path.with_name(f"complex_val_{kind}.txt")
            if listed.is_file():
                kinds |= {x.strip(): kind for x in _lines(listed.read_text(encoding="utf-8-sig")) if x.strip()}
    return [(p, {"category": category, **({"kind": kinds[p]} if p in kinds else {})}) for p in prompts]


def _of_rows(rows: Iterable[list[str]], path: Path, wanted: str) -> Items:
    header, *body = list(rows) or [[]]
    named = [name.strip() for name in header]
    place = next((i for i, name in enumerate(named) if name.lower() == wanted.lower()), None)
    if place is None:
        raise ValueError(f"prompt set {path}: its header has no column `{wanted}`, only {', '.join(named)}")
    found: Items = []
    for number, row in enumerate(body, 2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) > len(named) or place >= len(row) or not row[place].strip():
            raise ValueError(f"prompt set {path}, row {number}: {len(row)} cells, its header has {len(named)}: {row}")
        cells = dict(zip(named, row, strict=False))
        found.append((cells.pop(named[place]).strip(), cells))
    return found


def _json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"prompt set {path}, line {line}: not JSON ({error})") from error


def _of_whole_json(value: Any, path: Path) -> Items:
    if isinstance(value, dict) and isinstance(value.get("annotations"), list):
        first: dict[Any, str] = {}
        for each in value["annotations"]:
            if not isinstance(each, dict) or not {"image_id", "caption"} <= each.keys():
                raise ValueError(f"prompt set {path}: COCO's annotations have image_id and caption, got {each!r}")
            first.setdefault(each["image_id"], str(each["caption"]).strip())
        return [(caption, {"image_id": key}) for key, caption in first.items()]
    if not isinstance(value, list):
        raise ValueError(f"prompt set {path}: expected a list of prompts, or COCO's captions")
    style = {"style": path.stem} if path.stem in HPD else {}
    return [
        (prompt, {**style, **more})
        for prompt, more in (_of_json(each, path, number) for number, each in enumerate(value, 1))
    ]


def _of_json(value: Any, path: Path, number: int) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    key = next((key for key in ("prompt", "prompt_en") if isinstance(value, dict) and key in value), None)
    if key is None or not isinstance(value[key], str):
        raise ValueError(f"prompt set {path}, entry {number}: expected a text or an object with `prompt`")
    return value[key], value
