"""The paper's Fig 8 for a scaling study: losses against steps and FLOPs, and scores against losses."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmflow.study.plot import pyplot_here, save
from mmflow.study.plot_curves import COLORS
from mmflow.study.scaling_runs import MEDIA, Laws, SizeRun

SCORES = {"kernel": "kernel distance (lower is better)", "score": "GenEval (higher is better)"}


def plot_losses(runs: Sequence[SizeRun], found: Mapping[str, Laws], held_out: str, path: Path) -> Path:
    """Validation loss against steps, FLOPs and parameters, a row per medium; the held-out size is dashed, what the
    smaller ones say of it is a cross.
    """
    pyplot = pyplot_here()
    figure, panels = pyplot.subplots(len(found), 3, figsize=(13, 3.7 * len(found)), squeeze=False)
    labels = list(dict.fromkeys(run.label for run in runs))
    for row, (medium, law) in enumerate(found.items()):
        for run in runs:
            color = COLORS[labels.index(run.label) % len(COLORS)]
            flops, losses = run.curve(medium)
            style = {"color": color, "ls": "--" if run.label == held_out else "-", "marker": "o", "ms": 3}
            panels[row, 0].plot([c.step for c in run.checkpoints], losses, label=run.label, **style)
            panels[row, 1].plot(flops, losses, **style)
            panels[row, 2].plot([run.parameters], [run.at(law.step).losses[medium]], "o", color=color)
        sizes = np.geomspace(min(r.parameters for r in runs), max(r.parameters for r in runs), 40)
        said = [law.by_size.predict(float(n)) for n in sizes]
        panels[row, 2].plot(sizes, [each.value for each in said], color="#555555", lw=1, label="L(N), fitted")
        if law.by_size.free > 0:
            low, high = ([getattr(each, end) for each in said] for end in ("low", "high"))
            panels[row, 2].fill_between(sizes, low, high, color="#555555", alpha=0.12, lw=0)
        largest = max(r.parameters for r in runs)
        for each in law.predicted:
            if each.law == "L(N, D)" and each.step == law.step:
                panels[row, 2].plot([largest], [each.said.value], "x", color="black", ms=8, label="L(N, D) says")
        for panel, name in zip(panels[row], ("steps", "training FLOPs", f"parameters (step {law.step})"), strict=True):
            panel.set(xscale="log", yscale="log", xlabel=name, ylabel=f"validation loss, {medium}")
            panel.grid(alpha=0.25, which="both")
        panels[row, 2].legend(fontsize=7, frameon=False)
    panels[0, 0].legend(fontsize=8, frameon=False, title="size")
    return save(figure, path)


def plot_scores(runs: Sequence[SizeRun], path: Path) -> Path:
    """Scores of every checkpoint against its validation loss, coloured by size; those that never move are left out."""
    pyplot = pyplot_here()
    points = [c for run in runs for c in run.checkpoints]
    media = [m for m in MEDIA if all(m in c.losses for c in points)]
    moving = {n: t for n, t in SCORES.items() if len({c.scores[n] for c in points if n in c.scores}) > 1} or SCORES
    size = (5 * len(media), 3.4 * len(moving))
    figure, panels = pyplot.subplots(len(moving), len(media), figsize=size, squeeze=False)
    labels = list(dict.fromkeys(run.label for run in runs))
    for (name, title), row in zip(moving.items(), panels, strict=True):
        for medium, panel in zip(media, row, strict=True):
            for run in runs:
                own = [c for c in run.checkpoints if name in c.scores]
                color = COLORS[labels.index(run.label) % len(COLORS)]
                x, y = [c.losses[medium] for c in own], [c.scores[name] for c in own]
                panel.plot(x, y, "o", ms=4, color=color, label=run.label)
            panel.set(xlabel=f"validation loss, {medium}", ylabel=title)
            panel.grid(alpha=0.25)
    panels[0, 0].legend(fontsize=8, frameon=False, title="size")
    return save(figure, path)
