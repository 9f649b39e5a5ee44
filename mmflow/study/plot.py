"""The paper's Fig 3 for a study, score and distance against steps by family, and a chart of the ranks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmflow.metrics.ranking import Standing
from mmflow.study.standing import Metrics
from mmflow.study.table import Row

FAMILIES = {"rf": "#1f77b4", "edm": "#d62728", "eps": "#2ca02c", "v": "#ff7f0e"}
OTHER = "#7f7f7f"


def family(name: str) -> str:
    """`rf`, `edm`, `eps` or `v` of a formulation's name; its first word for anything else."""
    return name.split("/")[0].split("(")[0]


def pyplot_here() -> Any:
    """matplotlib, drawing into files."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ValueError('plots need matplotlib: pip install "mmflow-mmdit[plots]"') from error
    return pyplot


def plot_steps(rows: Sequence[Row], by: str, path: Path, metrics: Metrics = Metrics(), weights: str = "ema") -> Path:
    """Score and distance against the number of steps at the largest guidance scale: thin lines are variants, thick
    ones the best of each family at the most steps.
    """
    pyplot = pyplot_here()
    largest = max(row["guidance_scale"] for row in rows)
    kept = [row for row in rows if row["guidance_scale"] == largest and row["weights"] == weights]
    names = list(dict.fromkeys(row[by] for row in kept))
    steps = sorted({row["num_steps"] for row in kept})
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for panel, column, sign in zip(panels, (metrics.score, metrics.distance), (1, -1), strict=True):
        curves = {
            name: [float(np.mean([r[column] for r in kept if r[by] == name and r["num_steps"] == s])) for s in steps]
            for name in names
        }
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(family(name), []).append(name)
        for group, members in groups.items():
            color = FAMILIES.get(group, OTHER)
            best = max(members, key=lambda name: sign * curves[name][-1])
            for name in members:
                style: dict[str, Any] = {"lw": 0.7, "alpha": 0.35}
                if name == best:
                    style = {"lw": 2.2, "marker": "o", "label": name}
                panel.plot(steps, curves[name], color=color, **style)
        panel.set_xscale("log")
        panel.set_xticks(steps, [f"{s:g}" for s in steps])
        panel.minorticks_off()
        if sign < 0 and min(map(min, curves.values())) > 0:  # an unbiased distance may be below 0
            panel.set_yscale("log")
        panel.set_xlabel("steps")
        panel.set_ylabel(f"{column} ({'higher' if sign > 0 else 'lower'} is better)")
        # Beside the curves, which may be anywhere: one name a family.
        panel.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3)
    figure.suptitle(
        f"guidance {largest:g}, {weights} weights; bold: best of each family at {steps[-1]:g} steps", fontsize=9
    )
    return save(figure, path)


def plot_ranks(found: Sequence[Standing], path: Path) -> Path:
    """Mean rank of every variant with its interval, best on top."""
    pyplot = pyplot_here()
    figure, panel = pyplot.subplots(figsize=(7, 1.2 + 0.19 * len(found)))
    for place, each in enumerate(found):
        color = FAMILIES.get(family(each.name), OTHER)
        if not np.isnan(each.low):
            panel.plot([each.low, each.high], [place, place], color=color, lw=2, alpha=0.4)
        panel.plot([each.rank], [place], "o", color=color, ms=4)
    panel.set_yticks(range(len(found)), [each.name for each in found], fontsize=7)
    panel.set_ylim(len(found) - 0.5, -0.5)
    panel.set_xlabel("mean rank over all controls, with 95 % interval")
    panel.grid(axis="x", alpha=0.3)
    return save(figure, path)


def save(figure: Any, path: Path) -> Path:
    """Writes a figure and lets go of it."""
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot_here().close(figure)
    return path
