"""What people preferred, for others to learn from or be measured by: pairs of a better and a worse sample.

pairs.jsonl    prompt, question, medium, chosen, rejected, votes for, against and for neither, and whose they are
pairs.parquet  pictures in Pick-a-Pic's columns: caption, jpg_0, jpg_1 (bytes; PNG), label_0, label_1, has_label
media/         the samples that both name
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmflow.people.questions import PICTURE
from mmflow.people.session import Pair, Session
from mmflow.people.votes import Vote

JSONL, PARQUET = "pairs.jsonl", "pairs.parquet"


@dataclass(frozen=True)
class Preferred:
    """What the raters together said of one pair.

    Attributes:
        pair: of the session.
        question: its name.
        a, b, ties: first answers for each, and for neither.
    """

    pair: Pair
    question: str
    a: int
    b: int
    ties: int


def count_votes(session: Session, votes: Sequence[Vote]) -> list[Preferred]:
    """First answers of all raters, per pair and question that was voted on."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for vote in votes:
        if vote.repetition == 0:
            counts.setdefault((vote.pair, vote.question), {"a": 0, "b": 0, "tie": 0})[vote.preferred] += 1
    return [
        Preferred(pair, question, count["a"], count["b"], count["tie"])
        for pair in session.pairs
        for question in session.items[pair.item].questions
        if (count := counts.get((pair.id, question))) is not None
    ]


def write_preferred(session: Session, votes: Sequence[Vote], folder: str | Path) -> tuple[int, int]:
    """Writes pairs that one sample of won; the parquet has those that nobody won too, labelled a half each.

    Args:
        session: that was asked.
        votes: as `read_votes` gives them.
        folder: new.

    Returns:
        Pairs that were won, and all that were voted on.

    Raises:
        ValueError: if the folder exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} is there already: name another")
    media = folder / "media"
    media.mkdir(parents=True)
    counted = count_votes(session, votes)
    won = [each for each in counted if each.a != each.b]
    for place, model in {(each.pair.item, model) for each in counted for model in (each.pair.a, each.pair.b)}:
        shutil.copyfile(path := session.file(place, model), media / path.name)
    lines = [json.dumps(_row(session, each), ensure_ascii=False) for each in won]
    (folder / JSONL).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    _write_parquet(session, counted, folder / PARQUET)
    return len(won), len(counted)


def _row(session: Session, each: Preferred) -> dict[str, str | int]:
    item = session.items[each.pair.item]
    ours, theirs = (each.pair.a, each.pair.b) if each.a > each.b else (each.pair.b, each.pair.a)
    return {
        "prompt": item.prompt,
        "question": each.question,
        "medium": item.medium,
        "chosen": f"media/{item.file(ours)}",
        "rejected": f"media/{item.file(theirs)}",
        "votes_for": max(each.a, each.b),
        "votes_against": min(each.a, each.b),
        "votes_equal": each.ties,
        "chosen_model": session.models[ours].name,
        "rejected_model": session.models[theirs].name,
    }


def _write_parquet(session: Session, counted: Sequence[Preferred], path: Path) -> None:
    pictures = [each for each in counted if session.items[each.pair.item].medium == PICTURE]
    labels = [1.0 if each.a > each.b else 0.0 if each.b > each.a else 0.5 for each in pictures]
    content = {
        "caption": pa.array([session.items[each.pair.item].prompt for each in pictures], pa.string()),
        "question": pa.array([each.question for each in pictures], pa.string()),
        "jpg_0": pa.array([session.file(x.pair.item, x.pair.a).read_bytes() for x in pictures], pa.binary()),
        "jpg_1": pa.array([session.file(x.pair.item, x.pair.b).read_bytes() for x in pictures], pa.binary()),
        "label_0": pa.array(labels, pa.float64()),
        "label_1": pa.array([1 - label for label in labels], pa.float64()),
        "has_label": pa.array([label != 0.5 for label in labels], pa.bool_()),
    }
    pq.write_table(pa.table(content), path)
