"""What the votes come to: win rates, Elo, agreement of raters with each other and with themselves.

A question of pictures and the same of clips are two scores. First answers count; repeats only say how far a rater
agrees with himself. Intervals are of the choice of prompts, for the raters that there were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from mmflow.metrics.bradley_terry import elo, require_connected
from mmflow.metrics.interval import Interval, bootstrap, wilson
from mmflow.metrics.krippendorff import krippendorff_alpha
from mmflow.people.questions import CLIP, QUESTIONS
from mmflow.people.session import Session
from mmflow.people.votes import Vote

Floats = NDArray[np.float64]
WORTH = {"a": 1.0, "tie": 0.5, "b": 0.0}
"""Of an answer, to a."""


@dataclass(frozen=True)
class WinRate:
    """How often one model was preferred to another.

    Attributes:
        model, baseline: names.
        rate: ties half, with its interval; n is the number of votes.
        wins, ties, losses: of the model.
    """

    model: str
    baseline: str
    rate: Interval
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Said:
    """Everything about one question and medium.

    Attributes:
        name: `prompt`, or `prompt/clips` for clips.
        votes, raters, prompts: how many.
        rates: of every two models that were compared.
        elo: by model; None where votes do not link all of them, with the reason in `not_said`.
        alpha: agreement of raters; None where it cannot be told, with the reason in `not_said`.
        not_said: reasons.
    """

    name: str
    votes: int
    raters: int
    prompts: int
    rates: tuple[WinRate, ...]
    elo: Mapping[str, Interval] | None
    alpha: Interval | None
    not_said: tuple[str, ...]


@dataclass(frozen=True)
class Rater:
    """How one rater answered.

    Attributes:
        name: of the rater.
        votes: first answers.
        repeats, agreed: second answers, and how many of them were as the first.
        left, ties: shares of the first answers: for the left side among those that chose one, and for neither.
        seconds: median time of an answer.
    """

    name: str
    votes: int
    repeats: int
    agreed: int
    left: float | None
    ties: float
    seconds: float


def score_name(question: str, medium: str) -> str:
    """Of a question about a medium; `/clips` ends that of clips, as with the proxies."""
    return question + ("/clips" if medium == CLIP else "")


def by_score(session: Session, votes: Sequence[Vote]) -> dict[str, list[Vote]]:
    """First answers by score name, in the order of the questions."""
    medium = {pair.id: session.items[pair.item].medium for pair in session.pairs}
    found: dict[str, list[Vote]] = {}
    for vote in votes:
        if vote.repetition == 0:
            found.setdefault(score_name(vote.question, medium[vote.pair]), []).append(vote)
    order = [*QUESTIONS, *(f"{name}/clips" for name in QUESTIONS)]
    return {name: found[name] for name in order if name in found}


def wins_by_prompt(session: Session, votes: Sequence[Vote]) -> Floats:
    """(prompts, S, S): how often model i was preferred to j on each prompt's samples, ties half."""
    pairs = {pair.id: pair for pair in session.pairs}
    prompts = sorted({session.items[pairs[vote.pair].item].prompt for vote in votes})
    place = {prompt: n for n, prompt in enumerate(prompts)}
    wins = np.zeros((len(prompts), len(session.models), len(session.models)))
    for vote in votes:
        pair = pairs[vote.pair]
        worth, prompt = WORTH[vote.preferred], place[session.items[pair.item].prompt]
        wins[prompt, pair.a, pair.b] += worth
        wins[prompt, pair.b, pair.a] += 1 - worth
    return wins


def win_rates(session: Session, votes: Sequence[Vote]) -> list[WinRate]:
    """Of every two models that were compared, with intervals from a bootstrap over prompts.

    Where all prompts say the same there is nothing to draw from, and the interval is Wilson's of as many prompts.
    """
    pairs = {pair.id: pair for pair in session.pairs}
    found: dict[tuple[int, int], list[Vote]] = {}
    for vote in votes:
        found.setdefault((pairs[vote.pair].a, pairs[vote.pair].b), []).append(vote)
    rates = []
    for (a, b), some in sorted(found.items()):
        by_prompt: dict[str, list[float]] = {}
        for vote in some:
            by_prompt.setdefault(session.items[pairs[vote.pair].item].prompt, []).append(WORTH[vote.preferred])
        rate = bootstrap({"all": list(by_prompt.values())})
        if rate.low == rate.high:
            spread = wilson(round(rate.value * len(by_prompt)), len(by_prompt))
            rate = Interval(rate.value, min(rate.value, spread.low), max(rate.value, spread.high), rate.n)
        count = {answer: sum(vote.preferred == answer for vote in some) for answer in WORTH}
        names = session.models[a].name, session.models[b].name
        rates.append(WinRate(*names, rate, count["a"], count["tie"], count["b"]))
    return rates


def agreement_of(votes: Sequence[Vote]) -> Interval:
    """Krippendorff's alpha over pairs, ordinal: equal lies between the one and the other.

    Raises:
        ValueError: as `krippendorff_alpha`.
    """
    units = {pair: n for n, pair in enumerate(dict.fromkeys(vote.pair for vote in votes))}
    raters = {rater: n for n, rater in enumerate(dict.fromkeys(vote.rater for vote in votes))}
    answers = np.full((len(units), len(raters)), np.nan)
    for vote in votes:
        answers[units[vote.pair], raters[vote.rater]] = WORTH[vote.preferred]
    return krippendorff_alpha(answers, "ordinal")


def all_said(session: Session, votes: Sequence[Vote], anchor: str | None = None) -> list[Said]:
    """One per question and medium that was voted on.

    Args:
        session: that was asked.
        votes: as `read_votes` gives them.
        anchor: model whose Elo is 1000; None: the mean of all is.

    Raises:
        ValueError: if the anchor is no model of the session.
    """
    names = [model.name for model in session.models]
    if anchor is not None and anchor not in names:
        raise ValueError(f"the anchor is one of {', '.join(names)}: not {anchor}")
    found = []
    for name, some in by_score(session, votes).items():
        wins, not_said = wins_by_prompt(session, some), []
        strengths, alpha = None, None
        try:
            require_connected(wins.sum(0), names)
            strengths = dict(zip(names, elo(wins, None if anchor is None else names.index(anchor)), strict=True))
        except ValueError as error:
            not_said.append(f"Elo: {error}")
        try:
            alpha = agreement_of(some)
        except ValueError as error:
            not_said.append(f"alpha: {error}")
        raters = len({vote.rater for vote in some})
        rates = tuple(win_rates(session, some))
        found.append(Said(name, len(some), raters, len(wins), rates, strengths, alpha, tuple(not_said)))
    return found


def all_raters(votes: Sequence[Vote]) -> list[Rater]:
    """How each rater answered, by name."""
    found = []
    for name in sorted({vote.rater for vote in votes}):
        own = [vote for vote in votes if vote.rater == name]
        first = {(vote.pair, vote.question): vote for vote in own if vote.repetition == 0}
        again = [vote for vote in own if vote.repetition == 1 and (vote.pair, vote.question) in first]
        chose = [vote for vote in first.values() if vote.answer != "tie"]
        found.append(
            Rater(
                name,
                len(first),
                len(again),
                sum(vote.preferred == first[vote.pair, vote.question].preferred for vote in again),
                sum(vote.answer == "left" for vote in chose) / len(chose) if chose else None,
                1 - len(chose) / len(first) if first else 0.0,
                float(median(vote.seconds for vote in own)),
            )
        )
    return found
