"""The paper's Fig 4 for a study: what training came to, against steps and against FLOPs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmflow.study.plot import pyplot_here, save
from mmflow.study.table import Row

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf")


def plot_curves(
    rows: Sequence[Row], by: str, path: Path, title: str = "", score: str = "score", distance: str = "kernel"
) -> Path:
    """Validation loss, score and distance against optimizer steps (above) and FLOPs (below), a line per value of `by`.

    Bands are 95 % intervals of the mean over seeds; the spread of seeds is taken to be the same for all lines, and
    pooled at each step, since a few seeds say little of it. Thin lines are single seeds.
    """
    pyplot = pyplot_here()
    names = list(dict.fromkeys(row[by] for row in rows))
    figure, panels = pyplot.subplots(2, 3, figsize=(13, 7))
    wanted = (("val_loss", "validation loss (lower is better)"), (score, f"{score} (higher is better)"))
    for column, (key, label) in enumerate((*wanted, (distance, f"{distance} distance (lower is better)"))):
        half = half_widths(rows, by, key)
        for color, name in zip(COLORS * len(names), names, strict=False):
            own = [row for row in rows if row[by] == name]
            steps = sorted({row["step"] for row in own})
            mean = np.array([np.mean([row[key] for row in own if row["step"] == step]) for step in steps])
            per_step = own[0]["flops"] / own[0]["step"]
            for panel, unit in ((panels[0, column], 1.0), (panels[1, column], per_step)):
                x = np.array(steps) * unit
                panel.plot(x, mean, "o-", color=color, label=name, ms=3)
                for seed in sorted({row["seed"] for row in own}):
                    line = sorted((row["step"] * unit, row[key]) for row in own if row["seed"] == seed)
                    panel.plot(*zip(*line, strict=True), color=color, lw=0.5, alpha=0.5)
                band = np.array([half.get((name, step), np.nan) for step in steps])
                panel.fill_between(x, mean - band, mean + band, color=color, alpha=0.12, lw=0)
        for row, unit_name in ((0, "training steps"), (1, "training FLOPs")):
            panels[row, column].set_xlabel(unit_name)
            panels[row, column].set_ylabel(label)
            panels[row, column].grid(alpha=0.25)
    panels[0, 0].legend(fontsize=8, frameon=False)
    seeds = len({row["seed"] for row in rows})
    figure.suptitle(f"{title}{': ' if title else ''}averaged weights, {seeds} seed(s); bands are 95 %", fontsize=9)
    return save(figure, path)


def half_widths(rows: Sequence[Row], by: str, key: str) -> dict[tuple[str, float], float]:
    """(value of `by`, step) -> half of the 95 % interval of its mean over seeds; nothing where no line has two seeds.

    Student's t with the seeds' variance pooled over all values of `by` at that step.
    """
    from scipy.stats import t

    found: dict[tuple[str, float], float] = {}
    for step in {row["step"] for row in rows}:
        groups: dict[str, NDArray[np.float64]] = {}
        for name in {row[by] for row in rows}:
            groups[name] = np.array([r[key] for r in rows if r[by] == name and r["step"] == step], dtype=np.float64)
        groups = {name: values for name, values in groups.items() if len(values)}
        free = sum(len(values) - 1 for values in groups.values())
        if not free:
            continue
        variance = sum(float(((values - values.mean()) ** 2).sum()) for values in groups.values()) / free
        for name, values in groups.items():
            found[name, step] = float(t.ppf(0.975, free) * np.sqrt(variance / len(values)))
    return found
