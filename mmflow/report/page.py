"""The page of a run: what W&B shows, as markdown with figures beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmflow.export import caption_grid, write_png
from mmflow.metrics.correlation import MIN_POINTS
from mmflow.metrics.evidence import gather_evidence
from mmflow.metrics.loss_surface import MEDIA, LossSurface
from mmflow.metrics.signal_file import FILE, FOLDER, Round, read_rounds
from mmflow.metrics.surface_file import read_surface, surface_paths
from mmflow.report.markdown import table
from mmflow.report.plot import depth_of, plot_losses, plot_scatter, plot_scores, plot_surface
from mmflow.train.preference import plain
from mmflow.train.validation import spread

SHOWN = 6
"""Steps in the picture of prompts and steps."""


def write_page(run: Path, out: Path) -> Path:
    """`out` with its figures in a folder of its name beside it.

    Raises:
        ValueError: if the run has left no surface.
    """
    surfaces = [read_surface(path) for path in surface_paths(run).values()]
    if not surfaces:
        read_surface(run)  # says what is missing
    rounds, assets = read_rounds(run), out.parent / out.stem
    main = "ema" if "ema" in surfaces[-1].kinds else "raw"
    lines = [f"# Signals of `{run.name}`", "", _head(run, surfaces, rounds), ""]
    lines += ["## Validation loss", "", *_losses(surfaces, main)]
    lines += _figure(plot_losses(surfaces, assets / "losses.png"), out, "Loss over the steps, with 95 % intervals")
    lines += _figure(plot_surface(surfaces, main, assets / "surface.png"), out, "Loss against t, coloured by step")
    if rounds:
        lines += ["## Scores", "", *_scores(rounds, main)]
        lines += _figure(plot_scores(rounds, assets / "scores.png"), out, "Scores over the steps, 95 % intervals")
        sheet = prompt_sheet(run, assets / "prompts.png")
        if sheet is not None:
            lines += ["## The same prompts, step by step", "", *_figure(sheet, out, "A row per prompt")]
    lines += ["## What predicted what", "", *_preference(run, rounds, out, assets)]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines).rstrip() + "\n")
    return out


def _head(run: Path, surfaces: Sequence[LossSurface], rounds: Mapping[int, Round]) -> str:
    depth = depth_of(run)
    said = f"{len(surfaces)} validations of {len(surfaces[-1].rows)} samples up to step {surfaces[-1].step}"
    said += "" if depth is None else f", a model of depth {depth:g}"
    if rounds:
        last = rounds[max(rounds)]
        said += f"; {len(rounds)} rounds of signals took {last.share:.1%} of the time ({last.seconds:.0f} s the last)"
    return said + "."


def _figure(path: Path, out: Path, title: str) -> list[str]:
    return [f"![{title}]({path.relative_to(out.parent).as_posix()})", "", f"{title}.", ""]


def _losses(surfaces: Sequence[LossSurface], kind: str) -> list[str]:
    """First and last loss of every stratum."""
    first, last = surfaces[0], surfaces[-1]
    rows = []
    for stratum in (None, *last.strata):
        a, b = ((s.mean(kind, stratum) if stratum is None or stratum in s.strata else None) for s in (first, last))
        if b is not None:
            was = "" if a is None else f"{a.value:.4f}"
            rows.append([stratum or "all", was, f"{b.value:.4f}", f"{b.low:.4f} - {b.high:.4f}", str(b.n)])
    header = ["stratum", f"step {first.step}", f"step {last.step}", "95 %", "n"]
    return [f"Mean over t = 1/8 ... 7/8, {kind} weights.", "", *table(header, rows), ""]


def _scores(rounds: Mapping[int, Round], kind: str) -> list[str]:
    last = rounds[max(rounds)]
    rows = [
        [name, *(_interval(last.scores.get(k, {}).get(name)) for k in ("ema", "raw"))]
        for name in last.scores[kind if kind in last.scores else next(iter(last.scores))]
    ]
    return [f"At step {last.step}.", "", *table(["score", "ema", "raw"], rows), ""]


def _interval(score: Any) -> str:
    return "" if score is None else f"{score.value:.3f} ({score.low:.3f} - {score.high:.3f})"


def _preference(run: Path, rounds: Mapping[int, Round], out: Path, assets: Path) -> list[str]:
    """Agreement of losses and scores, and the checkpoint to keep; why not, where there are too few checkpoints."""
    if not rounds:
        return ["The run was not scored: `--signals.every_n_steps`, as often as it is validated.", ""]
    evidence = gather_evidence([run])
    number = len(evidence.points)
    if number < MIN_POINTS or not evidence.scores():
        moved = "" if evidence.scores() else ", and no score moved"
        return [f"{number} checkpoints were both validated and scored{moved}: {MIN_POINTS} are the least.", ""]
    found = plain(evidence)
    lines = [f"- {each['said']}" for each in found["recommendations"]] + [f"- {said}" for said in found["refused"]]
    lines += [
        "",
        "Agreement is minus the correlation with the loss. Intervals respect that neighbouring checkpoints are alike: "
        "`worth` is how many independent ones these are.",
        "",
    ]
    rows = [
        [
            *(r[name] for name in ("score", "stratum", "coefficient")),
            f"{r['agreement']:+.2f}",
            f"{r['low']:+.2f} to {r['high']:+.2f}",
            str(r["n"]),
            f"{r['effective']:.1f}",
        ]
        for r in found["agreement"]
        if r["stratum"] in ("all", *MEDIA) and r["coefficient"] != "pearson"
    ]
    lines += [*table(["score", "loss", "coefficient", "agreement", "95 %", "n", "worth"], rows), ""]
    figure = plot_scatter(evidence, None, assets / "scatter.png")
    return lines + _figure(figure, out, "Scores against validation loss, a point per checkpoint")


def prompt_sheet(run: Path, path: Path) -> Path | None:
    """Pictures of the prompts in the table, a row per prompt, a column per step; None if there are none."""
    folders = [each.parent for each in sorted((run / FOLDER).glob(f"step-*/{FILE}"))]
    folders = [folders[i] for i in spread(len(folders), SHOWN)]
    tiles, rounds = [], read_rounds(run)
    kind = "ema" if folders and list(folders[-1].glob("ema-prompt-*.png")) else "raw"
    names = sorted({each.name for folder in folders for each in folder.glob(f"{kind}-prompt-*.png")})
    for name in names:
        for folder in folders:
            if (folder / name).is_file():
                with Image.open(folder / name) as image:
                    step, place = int(folder.name.split("-")[1]), int(name.split("-")[-1].removesuffix(".png"))
                    text = rounds[step].prompts.get(str(place), "")
                    tiles.append((np.asarray(image.convert("RGB"))[None], f"{step}: {text}"))
    if not tiles or len(tiles) != len(names) * len(folders):
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_png(path, np.asarray(caption_grid(tiles, columns=len(folders))))
