"""Loss and scores of the same checkpoints, of one or several runs, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmflow.batch import LEVELS
from mmflow.metrics.interval import Z95, Interval
from mmflow.metrics.loss_surface import MEDIA, LossSurface
from mmflow.metrics.paired import OVERALL, require_same
from mmflow.metrics.signal_file import Round, read_rounds
from mmflow.metrics.surface_file import read_surface, surface_paths

Floats = NDArray[np.float64]
Voted = dict[Path, dict[int, dict[str, dict[str, Interval]]]]
"""What people said: run, resolved -> step -> kind of weights -> score."""


@dataclass(frozen=True)
class Point:
    """One checkpoint.

    Attributes:
        step: optimizer steps.
        losses: by stratum: `all`, the strata of the surface, and the media at each level.
        scores: by name.
    """

    step: int
    losses: Mapping[str, float]
    scores: Mapping[str, Interval]


@dataclass(frozen=True)
class Evidence:
    """The checkpoints of several runs, measured alike.

    Attributes:
        runs: by name, in the order of steps.
        kind: of the weights.
        lower_is_better: names of scores.
    """

    runs: Mapping[str, tuple[Point, ...]]
    kind: str
    lower_is_better: frozenset[str]

    @property
    def points(self) -> list[Point]:
        return [point for points in self.runs.values() for point in points]

    def strata(self) -> list[str]:
        """Those that every checkpoint has."""
        return [s for s in (self.points[0].losses if self.points else ()) if all(s in p.losses for p in self.points)]

    def scores(self) -> list[str]:
        """Names that every checkpoint has, and that are not the same everywhere."""
        names = [n for n in (self.points[0].scores if self.points else ()) if all(n in p.scores for p in self.points)]
        return [n for n in names if len({p.scores[n].value for p in self.points}) > 1]

    def loss(self, stratum: str) -> list[Floats]:
        """One array per run."""
        return [np.array([point.losses[stratum] for point in points]) for points in self.runs.values()]

    def score(self, name: str) -> list[Floats]:
        """One array per run; more is better."""
        sign = -1.0 if name in self.lower_is_better else 1.0
        return [sign * np.array([point.scores[name].value for point in points]) for points in self.runs.values()]

    def errors(self, name: str) -> list[Floats]:
        """Standard errors of the scores, from their intervals."""
        return [
            np.array([(p.scores[name].high - p.scores[name].low) / (2 * Z95) for p in points])
            for points in self.runs.values()
        ]


def losses_of(surface: LossSurface, kind: str) -> dict[str, float]:
    """Mean losses by stratum; t=1 by itself only."""
    found = {OVERALL: float(np.mean([surface.levels(kind, m)[:-1].mean() for m in MEDIA if m in surface.strata]))}
    for stratum in surface.strata:
        levels = surface.levels(kind, stratum)
        found[stratum] = float(levels[:-1].mean())
        if stratum in MEDIA:
            found |= {f"{stratum} t={t}": float(x) for t, x in zip(LEVELS, levels, strict=True)}
    return found


def gather_evidence(runs: Sequence[Path], kind: str | None = None, voted: Voted | None = None) -> Evidence:
    """Checkpoints that were both validated and scored.

    Args:
        runs: run directories.
        kind: `ema` or `raw`; the averaged weights where all have them, if not given.
        voted: by people, who are a judge as any other: only the checkpoints that they saw count then, with what else
            all of these were scored by.

    Raises:
        ValueError: if there are none, or runs were asked different questions or scored by different judges.
    """
    first: tuple[str, Mapping[str, Any], Mapping[str, Any]] | None = None
    named = dict(zip(_names(runs), runs, strict=True))
    read = {name: _read(run) if voted is None else _read_voted(run, voted) for name, run in named.items()}
    if voted is not None and any(not scored.identity for pairs in read.values() for _, scored in pairs):
        read = {n: [(s, _of_people(r)) for s, r in pairs] for n, pairs in read.items()}
    kinds = [set(r.scores) & set(s.kinds) for pairs in read.values() for s, r in pairs]
    shared = set.intersection(*kinds) if kinds else set()
    chosen = kind or ("ema" if "ema" in shared else "raw")
    if kinds and chosen not in shared:
        raise ValueError(f"not all of these checkpoints have {chosen} weights measured")
    found: dict[str, tuple[Point, ...]] = {}
    for name, pairs in read.items():
        for surface, scored in pairs:
            first = first or (f"{name} at step {surface.step}", surface.question, scored.identity)
            what = f"{first[0]} and {name} at step {surface.step}"
            require_same(first[1], surface.question, f"the validations of {what}")
            require_same(first[2], scored.identity, f"the scores of {what}")
        found[name] = tuple(Point(s.step, losses_of(s, chosen), dict(r.scores[chosen])) for s, r in pairs)
    lower = {name for pairs in read.values() for _, r in pairs for name in r.lower_is_better}
    return Evidence(found, chosen, frozenset(lower))


def _read(run: Path) -> list[tuple[LossSurface, Round]]:
    surfaces, rounds = surface_paths(run), read_rounds(run)
    both = sorted(surfaces.keys() & rounds.keys())
    if not both:
        raise ValueError(
            f"{run}: validated at steps {_some(surfaces)}, scored at steps {_some(rounds)}: no checkpoint has both. "
            "Set trainer.val_check_interval and signals.every_n_steps to the same number"
        )
    return [(read_surface(surfaces[step]), rounds[step]) for step in both]


def _read_voted(run: Path, voted: Voted) -> list[tuple[LossSurface, Round]]:
    """Of the checkpoints that people saw; the identity is empty where nobody else scored one."""
    surfaces, rounds, votes = surface_paths(run), read_rounds(run), voted.get(run.resolve(), {})
    both = sorted(surfaces.keys() & votes.keys())
    if not both:
        raise ValueError(
            f"{run}: validated at steps {_some(surfaces)}, voted on at steps {_some(votes)}: no checkpoint has both. "
            f"The votes are about {', '.join(map(str, voted)) or 'no run'}"
        )
    found = []
    for step in both:
        scored = rounds.get(step, Round(step, {}, (), {}, 0.0, 0.0))
        scores = {kind: {**scored.scores.get(kind, {}), **said} for kind, said in votes[step].items()}
        found.append((read_surface(surfaces[step]), replace(scored, scores=scores)))
    return found


def _of_people(scored: Round) -> Round:
    scores = {k: {n: s for n, s in each.items() if n.startswith("people/")} for k, each in scored.scores.items()}
    return replace(scored, scores=scores, identity={}, lower_is_better=())


def _names(runs: Sequence[Path]) -> list[str]:
    """Folder names, or whole paths where those are alike."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def _some(steps: Mapping[int, Any]) -> str:
    return ", ".join(map(str, list(steps)[:6])) + (" ..." if len(steps) > 6 else "") if steps else "none"
