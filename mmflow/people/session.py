"""One study with people, on disk, and the order in which each rater sees it.

    SESSION/session.json       models, prompts, pairs, questions: what raters never see
    SESSION/media/ID.png|.mp4  the samples under random names, with nothing in them that tells where they are from
    SESSION/votes.jsonl        one answer per line, see `votes`

A rater's list is a pure function of the session and the rater's name, so it is the same after a reload, on another
device and after the server was started again.
"""

import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mmflow.draws import generator
from mmflow.people.questions import PICTURE, QUESTIONS, questions_of
from mmflow.people.sides import Side, shared_places

FILE, MEDIA_FOLDER, VERSION = "session.json", "media", 1
GAP = 10
"""Pairs that lie between a pair and its repeat, where there are as many."""


@dataclass(frozen=True)
class Settings:
    """What is asked, and of how much.

    Attributes:
        questions: names.
        typography: asked where the prompt quotes words (quoted), always, or never.
        prompts: at most so many samples per model, spread evenly over those there are; None is all.
        per_rater: pairs that one rater sees, drawn anew for each; None is all.
        repeats: share of pairs that a rater sees twice, sides swapped, to see how far answers hold.
        fps: of clips that are frames in a store.
    """

    questions: tuple[str, ...] = tuple(QUESTIONS)
    typography: str = "quoted"
    prompts: int | None = None
    per_rater: int | None = None
    repeats: float = 0.1
    fps: float = 8.0

    def __post_init__(self) -> None:
        if not 0 <= self.repeats <= 1:
            raise ValueError(f"repeats are a share of the pairs, 0 to 1: got {self.repeats}")
        if not self.fps > 0 or any(n is not None and n < 1 for n in (self.prompts, self.per_rater)):
            raise ValueError(f"prompts, per_rater and fps are positive: got {self}")
        questions_of("", PICTURE, self.questions, self.typography)


@dataclass(frozen=True)
class Model:
    """Whose samples they are: name, folder, and the checkpoint where that is known."""

    name: str
    folder: str
    run: str | None
    step: int | None
    weights: str | None


@dataclass(frozen=True)
class Item:
    """One prompt and a sample of every model.

    Attributes:
        prompt, medium: of all of them.
        questions: names of what is asked.
        media: opaque id of each model's sample.
        sources: number in the store, or file name, of each.
    """

    prompt: str
    medium: str
    questions: tuple[str, ...]
    media: tuple[str, ...]
    sources: tuple[int | str, ...]

    def file(self, model: int) -> str:
        """Name below media/."""
        return f"{self.media[model]}{'.png' if self.medium == PICTURE else '.mp4'}"


@dataclass(frozen=True)
class Pair:
    """Two models' samples of one item; a and b are models' places in the session."""

    id: str
    item: int
    a: int
    b: int


@dataclass(frozen=True)
class Task:
    """One question about one pair, as one rater sees it.

    Attributes:
        pair, question: ids.
        repetition: 0, or 1 where the rater sees the pair again.
        left: which of a and b is at the left.
    """

    pair: str
    question: str
    repetition: int
    left: str

    @property
    def id(self) -> str:
        return f"{self.pair}.{self.question}.{self.repetition}"


@dataclass(frozen=True)
class Session:
    """One study.

    Attributes:
        folder: of it.
        key: random: what makes its raters' lists its own.
        settings: of `make`.
        models, items, pairs: what is compared.
    """

    folder: Path
    key: str
    settings: Settings
    models: tuple[Model, ...]
    items: tuple[Item, ...]
    pairs: tuple[Pair, ...]

    @property
    def votes(self) -> Path:
        return self.folder / "votes.jsonl"

    def file(self, item: int, model: int) -> Path:
        """Where a sample lies."""
        return self.folder / MEDIA_FOLDER / self.items[item].file(model)

    def tasks(self, rater: str) -> list[Task]:
        """All that a rater is asked, in order: pairs shuffled, sides random, some again with sides swapped."""
        rng = generator(0, "people", (self.key, rater), 0)
        places = rng.permutation(len(self.pairs))[: self.settings.per_rater]
        gap = min(GAP, len(places) // 2)
        again = rng.permutation(len(places) - gap)[: round(self.settings.repeats * len(places))]
        swapped = rng.random(len(places)) < 0.5
        shown = [(float(i), i, 0) for i in range(len(places))] + [(i + gap + 0.5, int(i), 1) for i in again]
        tasks = []
        for _, i, repetition in sorted(shown):
            pair = self.pairs[places[i]]
            left = "b" if bool(swapped[i]) != bool(repetition) else "a"
            tasks += [Task(pair.id, name, repetition, left) for name in self.items[pair.item].questions]
        return tasks

    @classmethod
    def open(cls, folder: str | Path) -> "Session":
        """A session that was made before.

        Raises:
            ValueError: if there is none, or a sample is missing.
        """
        folder = Path(folder)
        try:
            said: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
            version = said["version"]
            settings = Settings(**{**said["settings"], "questions": tuple(said["settings"]["questions"])})
            items = tuple(
                Item(i["prompt"], i["medium"], tuple(i["questions"]), tuple(i["media"]), tuple(i["sources"]))
                for i in said["items"]
            )
            models, pairs = tuple(Model(**m) for m in said["models"]), tuple(Pair(**p) for p in said["pairs"])
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{folder} is no session that `tools/human_eval.py make` made: {error}") from error
        if version != VERSION:
            raise ValueError(f"{folder} is a session of version {version}: this program knows {VERSION}")
        session = cls(folder, said["key"], settings, models, items, pairs)
        missing = [
            item.file(m)
            for item in items
            for m in range(len(models))
            if not (folder / "media" / item.file(m)).is_file()
        ]
        if missing:
            raise ValueError(f"{folder / MEDIA_FOLDER}: {len(missing)} samples are missing, such as {missing[0]}")
        return session


def make_session(
    folder: str | Path, sides: Sequence[Side], settings: Settings = Settings(), common: bool = False
) -> Session:
    """Puts the samples of all sides before people; the folder appears once it is whole.

    Args:
        folder: new.
        sides: of two models or more; all pairs of them are compared.
        settings: what is asked.
        common: compare what the sides share where they were not asked the same prompts.

    Raises:
        ValueError: if the folder exists, sides do not compare, or nothing would be asked.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(
            f"{folder} is there already: votes belong to the session that they were given in; name another"
        )
    places = shared_places(sides, common)
    if settings.prompts is not None and settings.prompts < len(places):
        places = [places[i] for i in np.linspace(0, len(places) - 1, settings.prompts).round().astype(int)]
    asked = [(p, questions_of(p[0], p[1], settings.questions, settings.typography)) for p in places]
    asked = [(place, questions) for place, questions in asked if questions]
    if not asked:
        raise ValueError(
            f"of {len(places)} prompts there is nothing to ask: motion is asked of clips, typography (quoted) of "
            "prompts with words in quotes"
        )
    making = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    (making / MEDIA_FOLDER).mkdir(parents=True)
    try:
        items = []
        for place, questions in asked:
            ids = tuple(secrets.token_hex(8) for _ in sides)
            for side, media in zip(sides, ids, strict=True):
                side.publish(place, making / MEDIA_FOLDER / media, settings.fps)
            sources = tuple(x if isinstance(x, int) else x.name for x in (side.places[place] for side in sides))
            items.append(Item(place[0], place[1], questions, ids, sources))
        models = tuple(
            Model(s.name, str(s.folder.resolve()), None if s.run is None else str(s.run), s.step, s.weights)
            for s in sides
        )
        pairs = tuple(
            Pair(secrets.token_hex(8), i, a, b)
            for i in range(len(items))
            for a, b in combinations(range(len(sides)), 2)
        )
        session = Session(folder, secrets.token_hex(8), settings, models, tuple(items), pairs)
        plain = {"version": VERSION, **{k: v for k, v in asdict(session).items() if k != "folder"}}
        (making / FILE).write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        making.replace(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return session
