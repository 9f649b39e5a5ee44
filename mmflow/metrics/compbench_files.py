"""T2I-CompBench's own files: the folders that its evaluators read, and the results that they write.

ROOT/CATEGORY/samples/PROMPT_000000.png    the number is that of the question, counted over the category's pictures
vqa_result.json                            [{"question_id": 0, "answer": "0.51"}, ...]
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmflow.metrics.prompt_file import COMPBENCH
from mmflow.metrics.prompt_names import check_names
from mmflow.metrics.store import Store, some

IMAGES = 10
"""Of each prompt, in the official protocol."""
UNDERSCORE = "_"
"""Ends the prompt in a picture's name."""


def questions(store: Store) -> dict[int, tuple[str, int]]:
    """Place -> (category, number of its question).

    Raises:
        ValueError: if no prompt is of a category.
    """
    numbers: Counter[str] = Counter()
    found = {}
    for place, asked in enumerate(store.asked):
        category = asked.metadata.get("category")
        if category in COMPBENCH:
            found[place] = category, numbers[category]
            numbers[category] += 1
    if not found:
        raise ValueError(f"{store.folder}: no prompt is of CompBench, whose files are named CATEGORY_val.txt")
    return found


def write_layout(store: Store, root: Path) -> int:
    """Writes a whole store as the official evaluators read it; the number of pictures.

    Raises:
        ValueError: if samples are missing or too many, a sample is a clip, a prompt cannot be a name, or a folder holds
            pictures already.
    """
    store.require_whole()
    places = questions(store)
    clips = [place for place in places if store.asked[place].request.frames > 1]
    if clips:
        raise ValueError(f"{store.folder}: CompBench is of pictures; places {some(clips)} are clips")
    prompts = store.prompts()
    for category in dict.fromkeys(category for category, _ in places.values()):
        own = {place: number for place, (of, number) in places.items() if of == category}
        names = {place: f"{prompts[place]}_{number:06d}.png" for place, number in own.items()}
        folder = root / category / "samples"
        check_names(names, prompts, folder, UNDERSCORE)
        if any(folder.iterdir()):
            raise ValueError(f"{folder} holds pictures already, which would be scored with these: name a new folder")
        for place, name in names.items():
            shutil.copyfile(store.path(place), folder / name)
    return len(places)


def write_answers(store: Store, values: Sequence[float | None], root: Path) -> None:
    """Writes each category's values as `ROOT/CATEGORY/vqa_result.json`."""
    rows: dict[str, list[dict[str, object]]] = {}
    for place, (category, number) in questions(store).items():
        value = values[place]
        if value is not None:
            rows.setdefault(category, []).append({"question_id": number, "answer": value})
    for category, answers in rows.items():
        (root / category).mkdir(parents=True, exist_ok=True)
        (root / category / "vqa_result.json").write_text(json.dumps(answers))


def read_answers(path: str | Path) -> dict[int, float]:
    """Number of the question -> answer, of a `vqa_result.json`: the evaluators write them in the order of files, and
    BLIP-VQA's as text.

    Raises:
        ValueError: naming file and entry, if it is none, or answers a question twice.
    """
    path = Path(path)
    try:
        rows = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: no results of CompBench can be read there: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path}: expected a list of answers, and at least one")
    found: dict[int, float] = {}
    for number, row in enumerate(rows, 1):
        try:
            question, answer = int(row["question_id"]), float(row["answer"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, entry {number}: expected question_id and answer, got {row!r}") from error
        if question in found or not math.isfinite(answer):
            raise ValueError(f"{path}, entry {number}: question {question} is answered twice, or with no number")
        found[question] = answer
    return found


def values_of(store: Store, answers: Mapping[str, Mapping[int, float]]) -> list[float | None]:
    """By place, what `read_answers` gave for each category.

    Raises:
        ValueError: if answers are missing or too many.
    """
    places = questions(store)
    values: list[float | None] = [None] * len(store.asked)
    for category, given in answers.items():
        own = {number: place for place, (of, number) in places.items() if of == category}
        missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
        if missing or extra:
            raise ValueError(
                f"answers of {category} are not of the pictures of {store.folder}: {len(missing)} questions have none "
                f"({some(missing)}), {len(extra)} answers have no picture ({some(extra)})"
            )
        for number, place in own.items():
            values[place] = given[number]
    return values
