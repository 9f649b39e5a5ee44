"""The page of a scaling study: losses, power laws, what they said of a run they had not seen, and the figures."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmflow.metrics.correlation import COEFFICIENTS, MIN_POINTS, correlate
from mmflow.report.markdown import table
from mmflow.study.plan import Study
from mmflow.study.plot_scaling import SCORES, plot_losses, plot_scores
from mmflow.study.scaling import Estimate, iso_flops
from mmflow.study.scaling_runs import MEDIA, Laws, SizeRun, laws

NO_FLOOR = 0.01
"""Share of the largest run's loss below which a fitted floor is none: the losses do not bend yet."""
SIGNS = {"kernel": 1.0, "score": -1.0}
"""Agreement is that a lower loss goes with a better score: of the distance a lower one."""


def page(study: Study, runs: Sequence[SizeRun], held_out: str, first: int, path: Path, command: str) -> str:
    """Writes the page and its two figures beside it; returns its text.

    Args:
        study: of which the runs are.
        runs: of at least three sizes.
        held_out: label of the largest size, which no fit sees.
        first: steps before it are left out of L(N, D).
        path: of the page.
        command: that made it.

    Raises:
        ValueError: as `laws`.
    """
    media = [m for m in MEDIA if all(m in c.losses for r in runs for c in r.checkpoints)]
    found = {medium: laws(runs, held_out, medium, first) for medium in media}
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.stem
    plot_losses(runs, found, held_out, path.with_name(f"{stem}_loss.png"))
    plot_scores(runs, path.with_name(f"{stem}_scores.png"))
    lines = [
        "# How loss falls with size",
        "",
        f"Made by `{command}`. Nothing here was written by hand.",
        "",
        *_scale(study, runs, held_out),
        "",
        *_losses(study, runs, media, found),
        "",
        f"![losses against steps, FLOPs and parameters]({stem}_loss.png)",
        "",
        *_power_laws(found, first),
        "",
        *_predictions(study, found, held_out),
        "",
        *_best_sizes(runs, media),
        "",
        *_agreement(runs, media),
        "",
        f"![scores against losses]({stem}_scores.png)",
    ]
    text = "\n".join(lines) + "\n"
    path.write_text(text)
    return text


def _scale(study: Study, runs: Sequence[SizeRun], held_out: str) -> Iterator[str]:
    sizes = [run.parameters for run in runs]
    seeds = len({run.seed for run in runs})
    most = max(run.checkpoints[-1].flops for run in runs)
    minutes = sum(run.seconds for run in runs) / 60
    yield (
        f"The scale: {len(set(sizes))} sizes of {_number(min(sizes))} to {_number(max(sizes))} parameters, at most "
        f"{most:.2g} FLOPs each, {seeds} seed{'s' if seeds > 1 else ''}, {minutes:.0f} minutes of training in all by "
        "the clock, which counts other work on the same processors. The paper's largest model has depth 38 and 8 "
        "billion parameters. At this scale a law tells of the beginning of training, and nothing of models of a useful "
        "size; what is shown is that the tools work, and what they say. All sizes share every hyperparameter but their "
        f"steps; weights are averaged. {study.rows} {held_out} was held out of all fits."
    )


def _losses(study: Study, runs: Sequence[SizeRun], media: Sequence[str], found: dict[str, Laws]) -> Iterator[str]:
    step = found[media[0]].step
    yield "## Losses"
    yield ""
    ends = [f"{m} at step {step}" for m in media] + [f"{m} at the end" for m in media]
    yield from table(
        [study.rows, "parameters", "steps", "FLOPs", *ends, "kernel distance at the end"],
        (
            [
                run.label,
                f"{run.parameters:,}",
                str(run.checkpoints[-1].step),
                f"{run.checkpoints[-1].flops:.3g}",
                *(f"{run.at(step).losses[m]:.4f}" for m in media),
                *(f"{run.checkpoints[-1].losses[m]:.4f}" for m in media),
                f"{run.checkpoints[-1].scores.get('kernel', math.nan):.4f}",
            ]
            for run in runs
        ),
    )


def _power_laws(found: dict[str, Laws], first: int) -> Iterator[str]:
    yield "## Power laws"
    yield ""
    yield (
        "L(N) = A N^-a at equal steps, and L(N, D) = E + A N^-a + B D^-b with D the samples seen, by least squares in "
        f"the logarithm{f', from step {first} on' if first else ''}. Intervals are 95 %. Those of the second take the "
        "checkpoints of a run for independent, which they are not, and are too narrow."
    )
    yield ""
    rows = []
    for medium, law in found.items():
        fit = law.by_size
        rows.append([medium, f"L(N), step {law.step}", "a", _with_interval(fit.parameter(1)), _spread(fit.spread)])
        if law.joint is not None:
            for name, place in (("a", 2), ("b", 4), ("E", 0)):
                value = law.joint.parameter(place, _exp)
                no_floor = name == "E" and value.value < NO_FLOOR * law.predicted[0].measured
                text = "not told from 0" if no_floor else _with_interval(value)
                rows.append([medium, "L(N, D)", name, text, _spread(law.joint.spread)])
    yield from table(["medium", "law", "parameter", "value (95 %)", "spread of a loss"], rows)


def _predictions(study: Study, found: dict[str, Laws], held_out: str) -> Iterator[str]:
    yield f"## What the smaller ones say of {study.rows} {held_out}"
    yield ""
    rows = []
    for medium, law in found.items():
        for each in law.predicted:
            inside = "-" if math.isnan(each.said.low) else "yes" if each.said.covers(each.measured) else "no"
            rows.append(
                [medium, each.law, str(each.step), _with_interval(each.said), f"{each.measured:.4f}",
                 f"{each.error:+.1f} %", inside]
            )  # fmt: skip
    yield from table(["medium", "law", "step", "said (95 %)", "measured", "error", "inside"], rows)


def _best_sizes(runs: Sequence[SizeRun], media: Sequence[str]) -> Iterator[str]:
    yield "## The best size for a budget"
    yield ""
    yield (
        "At equal FLOPs, losses of the sizes whose runs have spent them, interpolated along each run; the minimum of a "
        "parabola in log N where it lies between two sizes (Hoffmann et al. 2022, approach 2)."
    )
    yield ""
    rows = []
    for medium in media:
        mean: dict[float, list[SizeRun]] = {}
        for run in runs:
            mean.setdefault(float(run.parameters), []).append(run)
        curves = {}
        for size, same in mean.items():
            flops = same[0].curve(medium)[0]
            curves[size] = flops, np.mean([run.curve(medium)[1][: len(flops)] for run in same], axis=0)
        for each in iso_flops(curves):
            losses = ", ".join(f"{_number(n)}: {loss:.4f}" for n, loss in each.losses.items())
            best = f"the {each.edge} of them" if each.edge else _number(each.best)
            rows.append([medium, f"{each.flops:.3g}", losses, best, f"{each.loss:.4f}"])
    if rows:
        yield from table(["medium", "FLOPs", "parameters: loss", "best N", "loss there"], rows)
    else:
        yield "No three sizes have spent the same FLOPs: train the smaller ones longer."


def _agreement(runs: Sequence[SizeRun], media: Sequence[str]) -> Iterator[str]:
    yield "## Does the loss say what the scores say"
    yield ""
    points = sum(len(run.checkpoints) for run in runs)
    if points < MIN_POINTS:
        yield f"{points} checkpoints are too few to correlate: {MIN_POINTS} are the least."
        return
    yield (
        "Agreement is 1 where a lower loss always goes with a better score, over the checkpoints of all sizes; "
        "intervals know that neighbouring checkpoints are alike."
    )
    yield ""
    rows = []
    for name in SCORES:
        kept = [run for run in runs if all(name in c.scores for c in run.checkpoints)]
        values = [np.array([c.scores[name] for c in run.checkpoints]) for run in kept]
        if not kept or float(np.ptp(np.concatenate(values))) == 0:
            rows += [
                [SCORES[name].split(" (")[0], medium, "-", "the score is the same everywhere", "-"] for medium in media
            ]
            continue
        for medium in media:
            losses = [np.array([c.losses[medium] for c in run.checkpoints]) for run in kept]
            for coefficient in COEFFICIENTS:
                found = correlate(losses, [SIGNS[name] * value for value in values], coefficient)
                i, title = found.interval, SCORES[name].split(" (")[0]
                rows.append(
                    [title, medium, coefficient, f"{i.value:+.2f} ({i.low:+.2f} to {i.high:+.2f})",
                     f"{i.n}, worth {found.effective:.1f}"]
                )  # fmt: skip
    yield from table(["score", "loss of", "coefficient", "agreement (95 %)", "checkpoints"], rows)


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))


def _with_interval(found: Estimate) -> str:
    if math.isnan(found.low):
        return f"{found.value:.4g}"
    return f"{found.value:.4g} ({found.low:.3g} to {found.high:.3g})"


def _spread(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _number(value: float) -> str:
    for size, letter in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
