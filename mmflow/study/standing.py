"""From a study's table to the paper's rank table: what is a row, what is a control, and is the grid whole."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from mmflow.metrics.ranking import Measured, Standing, standings
from mmflow.study.table import KEYS, Row, label_columns

SEED = "seed"
MAXIMISE = (True, False)
SHOWN = 12


@dataclass(frozen=True)
class Metrics:
    """Which columns are compared.

    Attributes:
        score: to maximise.
        distance: to minimise.
    """

    score: str = "score"
    distance: str = "kernel"

    def of(self, row: Row) -> tuple[float | None, float | None]:
        return row.get(self.score), row.get(self.distance)

    def errors_of(self, row: Row) -> tuple[float, float]:
        """Standard errors, 0 where the table has none."""
        return row.get(f"{self.score}_error") or 0.0, row.get(f"{self.distance}_error") or 0.0


def columns(rows: Sequence[Row]) -> dict[str, Callable[[Row], bool]]:
    """The columns of the paper's Table 1 that this table has: all controls; the fewest and the most steps at the
    largest guidance scale of the most steps.
    """
    largest = max(row["guidance_scale"] for row in rows)
    steps = sorted({row["num_steps"] for row in rows if row["guidance_scale"] == largest})
    found: dict[str, Callable[[Row], bool]] = {"all": lambda row: True}
    for number in dict.fromkeys((steps[0], steps[-1])) if len(steps) > 1 else ():
        found[f"{number:g} steps"] = lambda row, n=number: row["num_steps"] == n and row["guidance_scale"] == largest  # type: ignore[misc]
    return found


def measured(
    rows: Sequence[Row], by: str, metrics: Metrics = Metrics(), expected: Sequence[dict[str, str]] | None = None
) -> tuple[list[str], Measured]:
    """The table as an array of (control, seed, variant, metric).

    Args:
        rows: of one study.
        by: the column whose values are ranked.
        metrics: the two that are compared.
        expected: labels of all cells there must be; without it every value must occur with every other.

    Returns:
        The variants' names and their numbers.

    Raises:
        ValueError: if there is no such column, controls are unequal, or the grid is not whole.
    """
    if by not in label_columns(rows):
        raise ValueError(f"no column {by!r} to rank; there are {', '.join(label_columns(rows))}")
    kinds = {row.get("controls") for row in rows}
    if len(kinds) > 1:
        raise ValueError(
            f"this table holds runs of unequal controls ({', '.join(map(str, sorted(map(str, kinds))))}): they do not "
            "compare. `study.py collect` says in what they differ"
        )
    others = [name for name in label_columns(rows) if name not in (by, SEED)]
    found: dict[tuple[str, tuple, str], Row] = {}
    for row in rows:
        key = row[by], _control(row, others), row.get(SEED, "0")
        if key in found:
            raise ValueError(f"this table holds {_words(by, others, key)} twice")
        found[key] = row
    asked = list(rows) if expected is None else [*expected]
    names, seeds = (list(dict.fromkeys(r[by] for r in asked)), list(dict.fromkeys(r.get(SEED, "0") for r in asked)))
    controls = list(dict.fromkeys(_control(row, others) for row in rows))
    if expected is not None:
        labels = dict.fromkeys(tuple(cell[name] for name in others) for cell in expected)
        settings = dict.fromkeys(control[len(others) :] for control in controls)
        controls = [a + b for a, b in product(labels, settings)]
    keys = [(name, control, seed) for control in controls for seed in seeds for name in names]
    missing = [key for key in keys if key not in found or None in metrics.of(found[key])]
    if missing:
        lines = [_words(by, others, key) for key in missing[:SHOWN]]
        more = [f"and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
        raise ValueError(
            f"{len(missing)} of {len(keys)} are missing, and are not made up:\n  " + "\n  ".join(lines + more)
        )
    shape = len(controls), len(seeds), len(names), 2
    values = np.array([metrics.of(found[key]) for key in keys], dtype=np.float64).reshape(shape)
    errors = np.array([metrics.errors_of(found[key]) for key in keys], dtype=np.float64).reshape(shape)
    return names, Measured(values, errors, MAXIMISE)


def rank_columns(
    rows: Sequence[Row], by: str, metrics: Metrics = Metrics(), expected: Sequence[dict[str, str]] | None = None
) -> dict[str, list[Standing]]:
    """The standing of every variant over all controls, and over those of single columns."""
    return {
        title: standings(*measured([row for row in rows if keep(row)], by, metrics, expected))
        for title, keep in columns(rows).items()
    }


def _control(row: Row, others: Sequence[str]) -> tuple:
    return (*(row[name] for name in others), *(row[key] for key in KEYS))


def _words(by: str, others: Sequence[str], key: tuple[str, tuple, str]) -> str:
    name, control, seed = key
    settings = ", ".join(
        f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in zip((*others, *KEYS), control, strict=True)
    )
    return f"{by} {name}, {settings}, seed {seed}"
