"""Figures of a run: the loss surface by step, losses and scores with their intervals, scores against loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmflow.batch import LEVELS
from mmflow.metrics.evidence import Evidence
from mmflow.metrics.loss_surface import MEDIA, LossSurface
from mmflow.metrics.paired import OVERALL
from mmflow.metrics.signal_file import Round

COLORS = {"ema": "#1f77b4", "raw": "#ff7f0e"}


def pyplot() -> Any:
    """matplotlib without a screen.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as found
    except ImportError as error:
        raise ValueError('plots need matplotlib: pip install "mmflow-mmdit[plots]"') from error
    return found


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot().close(figure)
    return path


def plot_surface(surfaces: Sequence[LossSurface], kind: str, path: Path) -> Path:
    """Loss against t, a panel per medium, a curve per step, coloured by it."""
    plt = pyplot()
    media = [m for m in MEDIA if any(m in each.strata for each in surfaces)]
    figure, panels = plt.subplots(1, len(media), figsize=(5.2 * len(media), 3.8), squeeze=False)
    last = max(max(each.step for each in surfaces), 1)
    colors = plt.get_cmap("viridis")
    for panel, medium in zip(panels[0], media, strict=True):
        for each in surfaces:
            if medium in each.strata:
                panel.plot(LEVELS, each.levels(kind, medium), color=colors(each.step / last), lw=1.2)
        panel.set(xlabel="t", title=f"{medium}s")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel(f"validation loss, {kind} weights")
    scale = plt.cm.ScalarMappable(cmap=colors, norm=plt.Normalize(0, last))
    figure.colorbar(scale, ax=panels[0].tolist(), label="step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return path


def plot_losses(surfaces: Sequence[LossSurface], path: Path) -> Path:
    """Mean loss but t=1 over the steps, with its 95 % interval, of either kind of weights."""
    figure, panel = pyplot().subplots(figsize=(6.5, 3.6))
    for kind in COLORS:
        found = [(each.step, each.mean(kind)) for each in surfaces if kind in each.kinds]
        if found:
            steps = [step for step, _ in found]
            panel.plot(steps, [i.value for _, i in found], color=COLORS[kind], marker="o", ms=3, label=kind)
            low, high = [i.low for _, i in found], [i.high for _, i in found]
            panel.fill_between(steps, low, high, color=COLORS[kind], alpha=0.15)
    panel.set(xlabel="step", ylabel="validation loss")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    return _save(figure, path)


def plot_scores(rounds: Mapping[int, Round], path: Path) -> Path:
    """Every score over the steps with its 95 % interval, of either kind of weights."""
    names = sorted({name for each in rounds.values() for scores in each.scores.values() for name in scores})
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, panels = pyplot().subplots(lines, columns, figsize=(4.0 * columns, 2.6 * lines), squeeze=False)
    for i, panel in enumerate(panels.ravel()):
        if i >= len(names):
            panel.axis("off")
            continue
        for kind, color in COLORS.items():
            found = [(s, r.scores[kind][names[i]]) for s, r in rounds.items() if names[i] in r.scores.get(kind, {})]
            if found:
                steps = [step for step, _ in found]
                panel.plot(steps, [x.value for _, x in found], color=color, marker="o", ms=3, label=kind)
                low, high = [x.low for _, x in found], [x.high for _, x in found]
                panel.fill_between(steps, low, high, color=color, alpha=0.15)
        panel.set_title(names[i], fontsize=9)
        panel.grid(alpha=0.3)
    panels[0][0].legend(frameon=False, fontsize=8)
    return _save(figure, path)


def plot_scatter(evidence: Evidence, shades: Mapping[str, float] | None, path: Path) -> Path:
    """Every score against the validation loss, a point per checkpoint: coloured by depth where runs differ in it, else
    by run, and of a single run by step.

    Args:
        evidence: the checkpoints.
        shades: depth of each run; None or all alike says nothing.
        path: of the PNG.
    """
    plt, names = pyplot(), evidence.scores()
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(4.2 * columns, 3.2 * lines), squeeze=False)
    by_depth = shades is not None and len(set(shades.values())) > 1
    cycle = plt.get_cmap("tab10")
    for i, panel in enumerate(panels.ravel()):
        if i >= len(names):
            panel.axis("off")
            continue
        for number, (run, points) in enumerate(evidence.runs.items()):
            x, y = [p.losses[OVERALL] for p in points], [p.scores[names[i]].value for p in points]
            style: dict[str, Any] = {"s": 18, "label": run}
            if by_depth and shades is not None:
                low, high = min(shades.values()), max(shades.values())
                style |= {"c": [shades[run]] * len(x), "vmin": low, "vmax": high, "cmap": "viridis"}
                style["label"] = f"{run}, depth {shades[run]:g}"
            elif len(evidence.runs) > 1:
                style["color"] = cycle(number % 10)
            else:
                style |= {"c": [p.step for p in points], "cmap": "viridis", "label": "colour: step"}
            panel.scatter(x, y, **style)
        panel.set(xlabel="validation loss", ylabel=names[i])
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=7, frameon=False)
    return _save(figure, path)


def depth_of(run: Path) -> float | None:
    """Of a run's network, from its configuration."""
    path = run / "config.yaml"
    if not path.is_file():
        return None
    depth = yaml.safe_load(path.read_text())["model"]["backbone"].get("init_args", {}).get("depth")
    return None if depth is None else float(depth)
