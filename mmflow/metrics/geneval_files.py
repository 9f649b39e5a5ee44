"""GenEval's own files: the folder that its evaluator reads and the results that it writes (djghosh13/geneval, MIT).

ROOT/00000/metadata.jsonl       one JSON object: the prompt's line of evaluation_metadata.jsonl
ROOT/00000/samples/00000.png    its pictures
ROOT/00000/grid.png             all of them side by side, for people; never scored
results.jsonl                   of each picture: filename, tag, prompt, correct, reason, metadata, details
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from mmflow.metrics.detector import AbstractVerdicts, Verdict
from mmflow.metrics.geneval_scores import geneval_places
from mmflow.metrics.pretrained import digest
from mmflow.metrics.store import Store, some

SAMPLE = re.compile(r"(\d+)/samples/(\d+)\.png$")
FIELDS = ("filename", "tag", "prompt", "correct", "metadata")


def layout(store: Store) -> dict[int, str]:
    """Place -> path below the root, prompts numbered as they first come.

    Raises:
        ValueError: if no prompt has GenEval's metadata.
    """
    folders: dict[str, int] = {}
    images: dict[int, int] = {}
    found = {}
    for place in geneval_places(store):
        prompt = folders.setdefault(json.dumps(dict(store.asked[place].metadata), sort_keys=True), len(folders))
        number = images.get(prompt, 0)
        images[prompt] = number + 1
        found[place] = f"{prompt:05d}/samples/{number:05d}.png"
    return found


def write_layout(store: Store, root: Path) -> int:
    """Writes a whole store as the official evaluator reads it; the number of pictures.

    Raises:
        ValueError: if samples are missing or too many, a sample is a clip, or `root` holds pictures already.
    """
    store.require_whole()
    places = layout(store)
    clips = [place for place in places if store.asked[place].request.frames > 1]
    if clips:
        raise ValueError(f"{store.folder}: GenEval is of pictures; places {some(clips)} are clips")
    if root.is_dir() and any(each.name.isdigit() for each in root.iterdir()):
        raise ValueError(f"{root} holds pictures already, which would be scored with these: name a new folder")
    rows: dict[str, list[Path]] = {}
    for place, name in places.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store.path(place), target)  # a picture's file in the store is the picture
        metadata = json.dumps(dict(store.asked[place].metadata), ensure_ascii=False)
        (target.parent.parent / "metadata.jsonl").write_text(metadata, encoding="utf-8")
        rows.setdefault(name.split("/")[0], []).append(target)
    for folder, files in rows.items():
        pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
        Image.fromarray(np.concatenate(pictures, axis=1)).save(root / folder / "grid.png")
    return len(places)


def write_results(store: Store, said: Mapping[int, Verdict], path: Path, root: Path) -> None:
    """Writes verdicts as the official evaluator does, so that its summary_scores.py and others read them.

    Args:
        store: of the pictures.
        said: by place.
        path: of the `results.jsonl`.
        root: of the pictures in the official layout, for their names.
    """
    lines = []
    for place, name in layout(store).items():
        metadata, verdict = dict(store.asked[place].metadata), said[place]
        row = {
            "filename": str(root / name),
            "tag": metadata["tag"],
            "prompt": store.asked[place].request.prompt,
            "correct": verdict.correct,
            "reason": verdict.reason,
            "metadata": json.dumps(metadata),
            "details": json.dumps({key: [list(box) for box in boxes] for key, boxes in verdict.details.items()}),
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """The rows of an official `results.jsonl`; `metadata` and `details` as objects.

    Raises:
        ValueError: naming file and line, if it is none, or names a picture twice.
    """
    path = Path(path)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no results of GenEval can be read there: {error}") from error
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            missing = [name for name in FIELDS if name not in row]
            row |= {name: json.loads(row.get(name) or "{}") for name in ("metadata", "details")}
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: not a row of GenEval's results ({error})") from error
        if missing:
            raise ValueError(f"{path}, line {number}: lacks {', '.join(missing)}; GenEval's rows have {FIELDS}")
        if row["filename"] in rows:
            raise ValueError(f"{path}, line {number}: {row['filename']} comes twice")
        rows[row["filename"]] = row
    if not rows:
        raise ValueError(f"{path}: holds no results")
    return list(rows.values())


@final
class OfficialResults(AbstractVerdicts):
    """What the official evaluator said of a store that was exported: its `results.jsonl`, read back.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return "geneval"

    def identity(self) -> dict[str, Any]:
        return {"detector": "official results", "file": digest(self.path)}

    def absent(self) -> str | None:
        return None if Path(self.path).is_file() else f"{self.path} is not there"

    def to(self, device: str) -> None:
        """It is a file."""

    def verdicts(self, store: Store, places: Sequence[int]) -> list[Verdict]:
        names = layout(store)
        rows = {}
        for row in read_results(self.path):
            match = SAMPLE.search(row["filename"].replace("\\", "/"))
            if match is None:
                raise ValueError(f"{self.path}: {row['filename']} is no picture of the official layout")
            rows[f"{int(match[1]):05d}/samples/{int(match[2]):05d}.png"] = row
        missing, extra = sorted(set(names.values()) - set(rows)), sorted(set(rows) - set(names.values()))
        if missing or extra:
            raise ValueError(
                f"{self.path} is not of the pictures of {store.folder}: {len(missing)} have no result"
                f"{f' ({some(missing)})' if missing else ''}, {len(extra)} results have no picture"
                f"{f' ({some(extra)})' if extra else ''}"
            )
        strange = [n for p, n in names.items() if rows[n]["prompt"] != store.asked[p].request.prompt]
        if strange:
            raise ValueError(f"{self.path}: prompts differ from those of {store.folder} at {some(strange)}")
        found = [rows[names[place]] for place in places]
        return [Verdict(bool(r["correct"]), r.get("reason") or "", r["details"]) for r in found]
