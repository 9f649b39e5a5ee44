"""The page of a study of objectives: what was run, the ranks, and what of the paper's findings they bear out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np

from mmflow.flow.formulations import TABLE_1
from mmflow.metrics.correlation import MIN_POINTS, correlate
from mmflow.metrics.ranking import Standing, are_apart, separated_share
from mmflow.report.markdown import table
from mmflow.study.judge import ShapesJudge
from mmflow.study.plan import Study, text
from mmflow.study.plot import family, plot_ranks, plot_steps
from mmflow.study.standing import rank_columns
from mmflow.study.table import Row, collect

CLAIMS = (
    ("rf/lognorm(0.00,1.00)", "rf"),
    ("rf/lognorm(0.00,1.00)", "eps/linear"),
    ("rf/mode(1.29)", "rf"),
    ("rf/cosmap", "rf"),
    ("eps/linear", "rf"),
    ("eps/linear", "v/linear"),
    ("v/linear", "v/cos"),
    ("rf", "edm(-1.20,1.20)"),
    ("edm(0.00,0.60)", "edm(-1.20,1.20)"),
)
"""(better, worse) in the paper's Table 1 and its text (section 5.1.1)."""


@dataclass(frozen=True)
class Ranked:
    """A study as far as it has been run.

    Attributes:
        study: what was asked.
        rows: of the variants that are whole.
        found: their standings, by column of the paper's Table 1.
        missing: variants that are not, or not wholly, there.
    """

    study: Study
    rows: list[Row]
    found: dict[str, list[Standing]]
    missing: list[str]

    @property
    def by_name(self) -> dict[str, Standing]:
        """Over all controls."""
        return {each.name: each for each in self.found["all"]}

    def mean(self, column: str, name: str, num_steps: float, guidance_scale: float) -> float:
        """Of averaged weights in one sampling setting, over everything else."""
        setting = {"weights": "ema", "num_steps": num_steps, "guidance_scale": guidance_scale}
        return fmean(r[column] for r in self.rows if r[self.study.rows] == name and setting.items() <= r.items())


def read_ranked(study: Study) -> Ranked:
    """The variants that are whole, ranked among themselves; nothing is made up for the others.

    Raises:
        ValueError: if fewer than two are whole, or their runs do not compare.
    """
    rows, _ = collect(study)
    whole = len(study.cells()) // len(study.axis(study.rows)) * len(study.settings) * len(study.weights)
    counts = {name: sum(row[study.rows] == name for row in rows) for name in study.axis(study.rows)}
    names = {name for name, count in counts.items() if count == whole}
    if len(names) < 2:
        raise ValueError(f"{study.out}: {len(names)} of {len(counts)} variants are whole, too few to rank")
    kept = [row for row in rows if row[study.rows] in names]
    return Ranked(study, kept, rank_columns(kept, study.rows), [n for n in counts if n not in names])


def page(studies: dict[str, Study], path: Path, command: str) -> str:
    """Writes the page and its figures beside it; returns its text.

    Args:
        studies: file -> study.
        path: of the page.
        command: that made it.

    Raises:
        ValueError: as `read_ranked`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        "# The paper's objectives, trained and ranked",
        "",
        f"Made by `{command}`. Nothing here was written by hand.",
        "",
    ]
    for file, study in studies.items():
        ranked, stem = read_ranked(study), Path(file).stem
        plot_ranks(ranked.found["all"], path.with_name(f"{stem}_ranks.png"))
        plot_steps(ranked.rows, study.rows, path.with_name(f"{stem}_steps.png"))
        lines += [f"## `{file}`", "", *_what(file, ranked), "", *_ranks(ranked), ""]
        lines += [f"![mean ranks with intervals]({stem}_ranks.png)", "", *_paper(ranked), "", *_few_steps(ranked), ""]
        lines += [f"![score and distance against steps]({stem}_steps.png)", ""]
    written = "\n".join(lines).rstrip() + "\n"
    path.write_text(written)
    return written


def chance_of(study: Study) -> float:
    """The score of whoever draws well and does not read, in the base's world."""
    from mmflow.cli import build

    _, data = build(Path(study.base), [f"--{key}={text(value)}" for key, value in study.fixed.items()])
    return ShapesJudge(data.world, study.judge).chance()


def _hardest(ranked: Ranked) -> tuple[float, float]:
    """The largest guidance scale, and the most steps."""
    return max(row["guidance_scale"] for row in ranked.rows), max(row["num_steps"] for row in ranked.rows)


def _what(file: str, ranked: Ranked) -> Iterator[str]:
    study = ranked.study
    seconds, pictures = (median(row[column] for row in ranked.rows) for column in ("train_seconds", "n"))
    seeds, settings = len(study.seeds), len(study.settings) * len(study.weights)
    others = [name for name in study.axes if name != study.rows]
    sets = "".join(f", {len(study.axis(name))} of `{name}`" for name in others)
    largest, most, chance = *_hardest(ranked), chance_of(study)
    above = sum(ranked.mean("score", name, most, largest) > chance for name in ranked.by_name)
    yield (
        f"`python tools/study.py run --config {file}` trains `{study.base}` with every formulation: "
        f"{len(ranked.by_name)} of {len(study.axis(study.rows))} are done, {seeds} seed{'s' if seeds > 1 else ''} of "
        f"training{sets}. A run took {seconds:.0f} s of training (median). The checkpoint with the least validation "
        f"loss of the averaged weights is sampled in {settings} ways, {pictures:.0f} pictures each. Score is the "
        f"share of pictures that are right; by chance it is {chance:.3f}. At {most:g} steps and guidance {largest:g}, "
        f"{above} of {len(ranked.by_name)} are above that."
    )
    if ranked.missing:
        yield ""
        yield f"Not whole, and in no rank: {', '.join(ranked.missing)}."


def _ranks(ranked: Ranked) -> Iterator[str]:
    largest, most = _hardest(ranked)
    titles = list(ranked.found)
    others = [{each.name: each.rank for each in ranked.found[title]} for title in titles[1:]]
    rows = []
    for each in ranked.found["all"]:
        interval = "" if np.isnan(each.low) else f" ({each.low:.1f} - {each.high:.1f})"
        losses = [row["val_loss"] for row in ranked.rows if row[ranked.study.rows] == each.name]
        rows.append(
            [
                f"{each.place}{'=' if each.tied else ''}",
                f"`{each.name}`",
                f"{each.rank:.2f}{interval}",
                *(f"{ranks[each.name]:.2f}" for ranks in others),
                f"{TABLE_1[each.name][0]:.2f}" if each.name in TABLE_1 else "",
                f"{fmean(losses):.4f}",
                f"{ranked.mean('score', each.name, most, largest):.2f}",
                f"{ranked.mean('kernel', each.name, most, largest):.4f}",
            ]
        )
    ways = f"{most:g} steps, guidance {largest:g}"
    header = ["place", "formulation", "mean rank (95 %)", *titles[1:], "paper's rank", "validation loss"]
    yield from table([*header, f"score, {ways}", f"distance, {ways}"], rows)
    yield ""
    first = ranked.found["all"]
    yield (
        f"= is a tie. {separated_share(first):.0%} of the pairs have intervals that do not overlap. Intervals: "
        "training seeds drawn anew, every metric moved by its standard error; one seed says nothing of others. Noise "
        "on top of noise leaves fewer variants beaten, so that intervals reach further down than up. Validation losses "
        "are of the velocity, with uniform weights over t."
    )


def _paper(ranked: Ranked) -> Iterator[str]:
    mine = ranked.by_name
    common = [name for name in TABLE_1 if name in mine]
    if len(common) >= MIN_POINTS:
        here = [np.array([mine[name].rank for name in common])]
        there = [np.array([TABLE_1[name][0] for name in common])]
        found = correlate(here, there, "spearman").interval
        yield (
            f"Of the paper's Table 1, {len(common)} rows are here. Their mean ranks here and there agree by Spearman's "
            f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f}; 1 is the same order, 0 none)."
        )
        yield ""
    rows = []
    for better, worse in CLAIMS:
        if better in mine and worse in mine:
            a, b = mine[better], mine[worse]
            verdict = ("yes" if a.rank < b.rank else "no") if are_apart(a, b) else "not told apart"
            rows.append([f"`{better}` before `{worse}`", f"{a.rank:.2f} and {b.rank:.2f}", verdict])
    if rows:
        yield from table(["the paper has", "mean ranks here", "borne out"], rows)


def _few_steps(ranked: Ranked) -> Iterator[str]:
    largest = max(row["guidance_scale"] for row in ranked.rows)
    steps = sorted({row["num_steps"] for row in ranked.rows if row["guidance_scale"] == largest})
    groups: dict[str, list[str]] = {}
    for name in ranked.by_name:
        groups.setdefault(family(name), []).append(name)
    yield f"Mean of each family, averaged weights, guidance {largest:g}, score / distance, by the number of steps:"
    yield ""
    rows = []
    for group, names in groups.items():
        means = [
            " / ".join(
                f"{fmean(ranked.mean(c, name, n, largest) for name in names):.{d}f}"
                for c, d in (("score", 2), ("kernel", 4))
            )
            for n in steps
        ]
        rows.append([group, str(len(names)), *means])
    yield from table(["family", "formulations", *(f"{n:g} steps" for n in steps)], rows)
