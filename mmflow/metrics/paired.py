"""Is B better than A? A paired test on the validation samples and noise that two surfaces share.

Most of a loss's spread is between samples and levels, and is the same for both; the differences of pairs spread far
less, so that half a percent shows where unpaired means see nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from mmflow.batch import LEVELS
from mmflow.metrics.loss_surface import MEDIA, LossSurface

Floats = NDArray[np.float64]
ALPHA = 0.05
MIN_PAIRS = 8
OVERALL = "all"


@dataclass(frozen=True)
class Difference:
    """Of one stratum.

    Attributes:
        stratum: `all`, or a stratum of the surface, or a medium at one level, `clip t=0.5`.
        a, b: mean losses of the shared samples.
        change: (b - a) / a; below 0 B is better.
        half: half of its 95 % interval.
        unpaired_half: what it would be without pairing.
        p: of no difference, two-sided.
        n: pairs.
        verdict: `better`, `worse` (B than A) or `no difference`; strata after Holm's correction for their number.
    """

    stratum: str
    a: float
    b: float
    change: float
    half: float
    unpaired_half: float
    p: float
    n: int
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """All strata, the overall one first, and the samples that had no partner."""

    differences: tuple[Difference, ...]
    only_a: int
    only_b: int

    def sentence(self, a: str = "A", b: str = "B") -> str:
        """The verdict in words: `B better by 0.8 % +- 0.2 %; not on clips`."""
        first, *rest = self.differences
        if first.verdict == "no difference":
            said = f"no difference between {a} and {b}: {100 * first.change:+.2g} % +- {100 * first.half:.2g} %"
            others = [d for d in rest if d.stratum in MEDIA and d.verdict != "no difference"]
            return said + "".join(f"; {b} {d.verdict} on {d.stratum}s by {_percent(d)}" for d in others)
        said = f"{b} {first.verdict} by {_percent(first)}"
        apart = [d for d in rest if " t=" not in d.stratum and d.verdict != first.verdict]
        for each in apart:
            on = f"{each.stratum}s" if each.stratum in MEDIA else each.stratum
            said += (
                f"; not on {on}" if each.verdict == "no difference" else f"; {each.verdict} on {on} by {_percent(each)}"
            )
        return said


def _percent(each: Difference) -> str:
    return f"{100 * abs(each.change):.2g} % +- {100 * each.half:.2g} %"


def require_same(a: Mapping[str, Any], b: Mapping[str, Any], what: str) -> None:
    """Refuses to put side by side what answers different questions.

    Raises:
        ValueError: naming what differs.
    """
    lines = [f"{key}: {a.get(key)} -> {b.get(key)}" for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    if lines:
        raise ValueError(f"{what} are of different identity and do not compare:\n  " + "\n  ".join(lines))


def compare(a: LossSurface, b: LossSurface, kinds: tuple[str, str]) -> Comparison:
    """B against A on the samples that both have.

    Args:
        a, b: surfaces of one question.
        kinds: weights of each, `ema` or `raw`.

    Raises:
        ValueError: if the questions differ, weights were not measured, fewer than 8 samples are shared, or a loss is
            not finite.
    """
    require_same(a.question, b.question, "the two validations")
    for surface, kind in zip((a, b), kinds, strict=True):
        if kind not in surface.kinds:
            raise ValueError(f"the validation at step {surface.step} has no {kind} weights, but {surface.kinds}")
    places = {name: i for i, name in enumerate(b.names)}
    pairs = [(i, places[name]) for i, name in enumerate(a.names) if name in places]
    if len(pairs) < MIN_PAIRS:
        raise ValueError(
            f"the two validations share {len(pairs)} samples of {len(a.rows)} and {len(b.rows)}: {MIN_PAIRS} are the "
            "least. They must be of the same data, seed and val_samples"
        )
    of_a, of_b = np.array(pairs).T
    x, y = a.losses(kinds[0])[of_a], b.losses(kinds[1])[of_b]
    for name, losses in (("A", x), ("B", y)):
        bad = int((~np.isfinite(losses).all(1)).sum())
        if bad:
            raise ValueError(
                f"{bad} of {len(losses)} samples of {name} have a loss that is not finite: it has diverged"
            )
    strata = {name: members[of_a] for name, members in a.strata.items() if members[of_a].sum() >= MIN_PAIRS}
    parts: dict[str, list[tuple[Floats, Floats]]] = {
        OVERALL: [(x[strata[m], :-1].mean(1), y[strata[m], :-1].mean(1)) for m in MEDIA if m in strata]
    }
    parts |= {name: [(x[each, :-1].mean(1), y[each, :-1].mean(1))] for name, each in strata.items()}
    for medium in MEDIA:
        if medium in strata:
            rows = strata[medium]
            parts |= {f"{medium} t={t}": [(x[rows, k], y[rows, k])] for k, t in enumerate(LEVELS)}
    found = [_difference(name, each) for name, each in parts.items() if each]
    return Comparison(_judged(found), len(a.rows) - len(pairs), len(b.rows) - len(pairs))


def _difference(stratum: str, parts: Sequence[tuple[Floats, Floats]]) -> Difference:
    """Of the sum of the parts' means; by the delta method, (b - a)/a varies as (y - x (1 + change)) / a does."""
    a, b = sum(float(x.mean()) for x, _ in parts), sum(float(y.mean()) for _, y in parts)
    change = (b - a) / a
    variance = sum(float((y - x * (1 + change)).var(ddof=1)) / len(x) for x, y in parts) / a**2
    unpaired = sum((float(y.var(ddof=1)) + (1 + change) ** 2 * float(x.var(ddof=1))) / len(x) for x, y in parts) / a**2
    n = sum(len(x) for x, _ in parts)
    quantile = float(student.ppf(1 - ALPHA / 2, n - len(parts)))
    error = math.sqrt(variance)
    p = 1.0 if change == 0 else 0.0 if error == 0 else 2 * float(student.sf(abs(change) / error, n - len(parts)))
    halves = quantile * error, quantile * math.sqrt(unpaired)
    return Difference(stratum, a / len(parts), b / len(parts), change, *halves, p, n, _verdict(change, p < ALPHA))


def _verdict(change: float, sure: bool) -> str:
    return "no difference" if not sure else "better" if change < 0 else "worse"


def _judged(found: Sequence[Difference]) -> tuple[Difference, ...]:
    """The overall verdict at 5 %; those of all strata together at 5 % (Holm 1979)."""
    first, *rest = found
    order = sorted(range(len(rest)), key=lambda i: rest[i].p)
    sure, holds = [False] * len(rest), True
    for place, i in enumerate(order):
        holds = holds and rest[i].p < ALPHA / (len(rest) - place)
        sure[i] = holds
    judged = [
        Difference(**{**vars(each), "verdict": _verdict(each.change, s)}) for each, s in zip(rest, sure, strict=True)
    ]
    return first, *judged
