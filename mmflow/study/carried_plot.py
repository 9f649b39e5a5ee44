"""The figure of docs/video.md: scores against compute, and how pictures and clips pull at shared weights."""

import json
from pathlib import Path
from typing import Any

from mmflow.metrics.protocol import MOTION
from mmflow.study.carried import PICTURES, tokens_per_step
from mmflow.study.logged import logged, losses
from mmflow.study.plot import pyplot_here, save

STYLES = {"pictures": "#7f7f7f", "carried": "#1f77b4", "scratch": "#d62728"}
LABELS = {"pictures": "model of pictures", "carried": "carried to clips", "scratch": "pictures and clips from scratch"}


def plot_carried(config: Path, out: Path, path: Path) -> Path:
    """Picture score, motion and validation losses of the three runs against visual tokens, and the interference meter.

    Args:
        config: that the runs share.
        out: folder of the runs.
        path: of the PNG.
    """
    pyplot = pyplot_here()
    mixed, single = tokens_per_step(config) / 1e6, tokens_per_step(config, 0.0) / 1e6
    scores = {name: json.loads((out / name / "carried.json").read_text()) for name in STYLES}
    before = max(row["step"] for row in scores["pictures"]) * single
    starts, rates = {"carried": before}, {"pictures": single}
    figure, panels = pyplot.subplots(2, 2, figsize=(11, 7))

    def place(name: str, step: int) -> float:
        return float(starts.get(name, 0.0) + step * rates.get(name, mixed))

    for panel, task, title in ((panels[0, 0], PICTURES, "pictures right"), (panels[0, 1], MOTION, "motion right")):
        for name, rows in scores.items():
            points = [(place(name, row["step"]), row[task]) for row in rows if task in row]
            if not points:
                continue
            x, y = [p for p, _ in points], [s["value"] for _, s in points]
            panel.plot(x, y, "o-", color=STYLES[name], label=LABELS[name])
            panel.fill_between(
                x, [s["low"] for _, s in points], [s["high"] for _, s in points], color=STYLES[name], alpha=0.12, lw=0
            )
        panel.set_ylim(0, 1)
        panel.set_title(f"{title}, with 95 % intervals", fontsize=9)
    _losses(panels[1, 0], out, place)
    _cosines(panels[1, 1], out)
    for panel in (*panels[0], panels[1, 0]):
        panel.axvline(before, color="black", lw=0.7, ls=":")
        panel.set_xlabel("visual tokens trained on, millions (dotted: where clips begin)")
        _legend(panel)
    return save(figure, path)


def _losses(panel: Any, out: Path, place: Any) -> None:
    for name in STYLES:
        rows = losses(out / name)
        for medium, line in (("pictures", "o-"), ("clips", "s--")):
            points = [(place(name, step), row[medium]) for step, row in rows.items() if medium in row]
            if points:
                label = f"{LABELS[name]}: {medium}"
                panel.plot([x for x, _ in points], [y for _, y in points], line, color=STYLES[name], label=label, ms=4)
    panel.set_yscale("log")
    panel.set_title("validation loss", fontsize=9)


def _cosines(panel: Any, out: Path) -> None:
    groups = ["embeddings", *(f"{place}_{stream}" for place in ("early", "middle") for stream in ("visual", "context"))]
    for group in groups:
        rows = list(logged(out / "carried", [f"interference/{group}/cosine"]))
        if rows:
            values = [numbers[f"interference/{group}/cosine"] for _, numbers in rows]
            panel.plot([step for step, _ in rows], values, label=group.replace("_", ", "), lw=1.2)
    panel.axhline(0, color="black", lw=0.7)
    panel.set_xlabel("steps since clips began")
    panel.set_title("cosine of the gradients of pictures and clips, by layer group", fontsize=9)
    _legend(panel)


def _legend(panel: Any) -> None:
    if panel.get_legend_handles_labels()[0]:  # short runs may end before their first validation
        panel.legend(fontsize=8, frameon=False)
