"""Stores, sessions and raters whose preferences are known."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from mmflow.export import write_media
from mmflow.metrics.prompt_set import prompt_set
from mmflow.metrics.store import Identity, Store
from mmflow.people.session import Item, Model, Pair, Session, Settings, make_session
from mmflow.people.sides import open_side
from mmflow.people.votes import Vote

PROMPTS = ["a red circle", 'a sign that says "open"', "a blue square moving left"]
SIZE = 16


def frames(colour: int, number: int, size: int = SIZE) -> np.ndarray:
    """A square that moves over a ground of a model's own colour."""
    made = np.full((number, size, size, 3), 40, np.uint8)
    made[..., colour % 3] = 90 + 25 * (colour // 3)
    for t in range(number):
        made[t, 4:8, 2 + 2 * t : 6 + 2 * t] = 255
    return made


def fill_store(
    run: Path, colour: int = 0, prompts: Sequence[str] = PROMPTS, images: int = 1, step: int = 5, size: int = SIZE
) -> Path:
    """A store as `test` leaves it; prompts of something that moves ask for clips. Returns its folder."""
    asked = prompt_set(
        "made", [(p, {"clip": "moving" in p}) for p in prompts], lambda m: (4 if m["clip"] else 1, size, size), images
    )
    identity = Identity(
        {"step": step, "weights": "ema", "digest": run.name},
        {"name": "made", "digest": asked.digest()},
        {"num_steps": 4},
    )
    store = Store.create(run / "store", identity, asked)
    for index, each in enumerate(store.asked):
        store.write(index, frames(colour, each.request.frames, size))
    return store.folder


def fill_predictions(folder: Path, colour: int = 0, prompts: Sequence[str] = PROMPTS) -> Path:
    """A folder as `predict` leaves it."""
    rows = []
    for index, prompt in enumerate(prompts):
        path = write_media(folder / f"{index:05d}", frames(colour, 4 if "moving" in prompt else 1), 8)
        rows.append({"index": index, "file": path.name, "prompt": prompt})
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def study(
    folder: Path, models: int = 2, prompts: Sequence[str] = PROMPTS, settings: Settings = Settings(), images: int = 1
) -> Session:
    """A session of stores."""
    sides = [
        open_side(f"model-{m}={fill_store(folder / f'secret-run-{m}', m, prompts, images, step=100 * (m + 1))}")
        for m in range(models)
    ]
    return make_session(folder / "session", sides, settings)


def planned(models: int, prompts: int, settings: Settings = Settings()) -> Session:
    """A session on paper: no files."""
    items = tuple(
        Item(
            f"prompt {i}",
            "picture",
            ("prompt", "aesthetics"),
            tuple(f"{i:04d}{m}" for m in range(models)),
            (i,) * models,
        )
        for i in range(prompts)
    )
    names = tuple(Model(f"model-{m}", f"/m{m}", None, None, None) for m in range(models))
    pairs = tuple(Pair(f"{i}-{a}-{b}", i, a, b) for i in range(prompts) for a, b in combinations(range(models), 2))
    return Session(Path("nowhere"), "key", settings, names, items, pairs)


def simulated(
    session: Session,
    strengths: Mapping[str, Sequence[float]],
    raters: int,
    ties: float = 0.1,
    side_bias: float = 0.0,
    seed: int = 0,
) -> list[Vote]:
    """All answers of raters who choose by Bradley and Terry's rule.

    Args:
        session: that they are asked.
        strengths: log strength of every model, by question.
        raters: how many.
        ties: probability of an answer that both are equal.
        side_bias: log odds for the left side.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    pairs, votes = {pair.id: pair for pair in session.pairs}, []
    for n in range(raters):
        for task in session.tasks(f"rater-{n}"):
            pair, s = pairs[task.pair], strengths[task.question]
            left, right = (pair.a, pair.b) if task.left == "a" else (pair.b, pair.a)
            wins = rng.random() < 1 / (1 + np.exp(s[right] - s[left] - side_bias))
            answer = "tie" if rng.random() < ties else "left" if wins else "right"
            votes.append(
                Vote(
                    f"{n}-{len(votes)}",
                    f"rater-{n}",
                    task.pair,
                    task.question,
                    task.repetition,
                    task.left,
                    answer,
                    2.0,
                    "",
                )
            )
    return votes
