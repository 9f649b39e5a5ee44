"""Train a configuration along axes under equal controls, score every run, and rank them as the SD3 paper does.

python tools/study.py run --config configs/study.yaml        train, sample and score all cells; goes on where it stopped
python tools/study.py collect --config configs/study.yaml    write the table of what there is so far
python tools/study.py rank TABLE_OR_FOLDER                   non-dominated sorting, mean ranks, intervals, ties
python tools/study.py plot TABLE_OR_FOLDER                   score and distance against steps; chart of the ranks
python tools/study.py plot FOLDER --kind curves              loss and scores in training, against steps and FLOPs
python tools/study.py sizes --config STUDY.yaml              parameters and FLOPs of each cell; what is not matched
python tools/study.py page --config A.yaml B.yaml --out P.md  ranks of studies of objectives beside the paper's; a page
python tools/study.py scale --config STUDY.yaml --out P.md   power laws, the best size, the next size's loss; a page
python tools/study.py variance --config STUDY.yaml           how the gradient varies between steps, by how t is drawn
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmflow.metrics.ranking import Standing, separated_share

console = Console(width=None if Console().is_terminal else 120)


def run(args: argparse.Namespace) -> int:
    """Runs what is left to do; the table grows with every cell."""
    from mmflow.study.launch import run_locally, submit, write_array
    from mmflow.study.plan import read_study
    from mmflow.study.records import unfinished
    from mmflow.study.worker import Outcome

    study = read_study(args.config)
    _write(study, quiet=True)  # what is known already must compare before more is trained
    total, cells = len(study.cells()), [cell for cell in unfinished(study) if args.only in cell.name]
    console.print(f"{escape(study.out)}: {total} cells, {len(cells)} to run")
    if not cells:
        return collect(args)
    if args.launcher == "slurm":
        script = write_array(study, args.config, cells, args.processes, args.sbatch)
        console.print(f"wrote {escape(str(script))}", soft_wrap=True)
        if not args.dry_run:
            console.print(escape(submit(script)))
        return 0
    failed: list[str] = []
    ended_cells = 0

    def ended(outcome: Outcome) -> None:
        nonlocal ended_cells
        ended_cells += 1
        from mmflow.study.folder import BUSY, STOPPED

        words = {0: "done", BUSY: "left to another process", STOPPED: "[red]STOPPED[/]"}
        word = words.get(outcome.status, "[red]FAILED[/]")
        what = escape(outcome.cell.name)
        console.print(f"{ended_cells}/{len(cells)}  {what}  {word}  {outcome.seconds:.0f} s", soft_wrap=True)
        if outcome.status == 0:
            _write(study, quiet=True)
        elif outcome.status != BUSY:
            failed.append(outcome.cell.name)
            console.print(escape(f"  log: {study.folder(outcome.cell) / 'log.txt'}\n{outcome.tail}"), soft_wrap=True)

    run_locally(study, args.config, cells, args.processes, ended)
    status = collect(args)
    if failed:
        console.print(
            f"[red]{len(failed)} cell(s) are not done[/]; `run` tries them again: {escape(', '.join(failed))}"
        )
    return 1 if failed else status


def collect(args: argparse.Namespace) -> int:
    """Writes the table of what there is, and says what is missing."""
    from mmflow.study.plan import read_study

    _write(read_study(args.config), quiet=False)
    return 0


def _write(study: Any, quiet: bool) -> None:
    from mmflow.study.records import record
    from mmflow.study.table import collect as gather
    from mmflow.study.table import curves, write_table

    record(study)
    rows, missing = gather(study)
    if points := curves(study):
        write_table(points, Path(study.out), "curves")
    if rows:
        path = write_table(rows, Path(study.out))
        if not quiet:
            console.print(f"{len(rows)} rows: {escape(str(path))}, table.parquet beside it", soft_wrap=True)
    if missing and not quiet:
        console.print(f"{len(missing)} cells are not whole:")
        for line in missing:
            console.print("  " + escape(line), soft_wrap=True)


def rank(args: argparse.Namespace) -> int:
    """Prints the table of ranks."""
    from mmflow.study.standing import rank_columns

    rows, by, expected = _rows(args)
    found = rank_columns(rows, by, _metrics(args), expected)
    console.print(rank_table(by, found))
    first = next(iter(found.values()))
    if any(each.low == each.low for each in first):
        console.print(
            f"{separated_share(first):.0%} of the pairs have intervals that do not overlap; = is a tie. Intervals: "
            "training seeds drawn anew, metrics moved by their standard errors; one seed says nothing of other seeds"
        )
    else:
        console.print("no intervals: one seed, and no standard errors in this table")
    return 0


def rank_table(by: str, found: dict[str, list[Standing]]) -> Table:
    """The ranks for people, best first."""
    grid = Table(title=f"Mean rank of {by}, non-dominated sorting", title_justify="left")
    titles = list(found)
    for name in ("place", by, titles[0], "95 %", *titles[1:]):
        grid.add_column(name, justify="left" if name == by else "right")
    others = [{each.name: each.rank for each in found[title]} for title in titles[1:]]
    for each in found[titles[0]]:
        interval = f"{each.low:.2f} - {each.high:.2f}" if each.low == each.low else ""
        place = f"{each.place}{'=' if each.tied else ' '}"
        grid.add_row(place, escape(each.name), f"{each.rank:.2f}", interval, *(f"{r[each.name]:.2f}" for r in others))
    return grid


def plot(args: argparse.Namespace) -> int:
    """Draws score and distance against steps, and the ranks; or what training came to, against steps and FLOPs."""
    from mmflow.study.plot import plot_ranks, plot_steps
    from mmflow.study.standing import rank_columns

    out = Path(args.out) if args.out else Path(args.table) if Path(args.table).is_dir() else Path(args.table).parent
    out.mkdir(parents=True, exist_ok=True)
    if args.kind == "curves":
        return _plot_curves(args, out)
    rows, by, expected = _rows(args)
    found = rank_columns(rows, by, _metrics(args), expected)
    paths = plot_steps(rows, by, out / "steps.png", _metrics(args)), plot_ranks(found["all"], out / "ranks.png")
    console.print(", ".join(map(str, paths)), soft_wrap=True)
    return 0


def _plot_curves(args: argparse.Namespace, out: Path) -> int:
    from mmflow.study.plan import read_study
    from mmflow.study.plot_curves import plot_curves
    from mmflow.study.table import label_columns, read_table

    rows = read_table(args.table, "curves")
    study = None if args.config is None else read_study(args.config)
    by = args.by or (label_columns(rows)[0] if study is None else study.rows)
    groups = {} if study is None else study.matched
    for name, labels in (groups or {"": list(dict.fromkeys(row[by] for row in rows))}).items():
        kept = [row for row in rows if row[by] in labels]
        if not kept:
            console.print(f"curves matched by {name}: nothing was run yet")
            continue
        title = f"matched by {name}" if name else ""
        path = plot_curves(kept, by, out / f"curves{'_' if name else ''}{name}.png", title, args.score, args.distance)
        console.print(escape(str(path)), soft_wrap=True)
    return 0


def sizes(args: argparse.Namespace) -> int:
    """Prints parameters and FLOPs of each value of the ranked axis; status 1 if what is to be matched is not."""
    from mmflow.study.plan import read_study
    from mmflow.study.size import sizes as measure
    from mmflow.study.size import unmatched

    study = read_study(args.config)
    found = measure(study)
    grid = Table(title=f"{study.rows}: what it costs", title_justify="left")
    for name in (study.rows, "parameters", "GFLOP per step", *(f"matched by {kind}" for kind in study.matched)):
        grid.add_column(name, justify="left" if name == study.rows else "right")
    for label, size in found.items():
        marks = ("yes" if label in labels else "" for labels in study.matched.values())
        grid.add_row(escape(label), f"{size.parameters:,}", f"{size.step_flops / 1e9:.2f}", *marks)
    console.print(grid)
    lines = unmatched(found, study.matched)
    for line in lines:
        console.print(escape(line), soft_wrap=True)
    return 1 if lines else 0


def scale(args: argparse.Namespace) -> int:
    """Fits power laws to the sizes of a study but the held-out one, and writes the page."""
    from mmflow.study.plan import read_study
    from mmflow.study.scaling_page import page
    from mmflow.study.scaling_runs import read_runs

    study = read_study(args.config)
    runs = read_runs(study)
    held_out = args.held_out or runs[-1].label
    out = args.out or Path(study.out) / "scaling.md"
    command = f"python tools/study.py scale --config {args.config} --held-out {held_out}"
    command += f" --first {args.first}" if args.first else ""
    page(study, runs, held_out, args.first, out, command)
    console.print(f"page  {escape(str(out))}, with its figures beside it", soft_wrap=True)
    return 0


def page(args: argparse.Namespace) -> int:
    """Writes the page of studies of objectives, as far as they have been run."""
    from mmflow.__main__ import quieten
    from mmflow.study.plan import read_study
    from mmflow.study.ranking_page import page as write

    quieten()
    files = [str(file) for file in args.config]
    command = f"python tools/study.py page --config {' '.join(files)} --out {args.out}"
    write({file: read_study(file) for file in files}, args.out, command)
    console.print(f"page  {escape(str(args.out))}, with its figures beside it", soft_wrap=True)
    return 0


def variance(args: argparse.Namespace) -> int:
    """Prints and writes how much loss and gradient of the trained cells vary between steps, by how t is drawn."""
    from mmflow.study.plan import read_study
    from mmflow.study.table import write_table
    from mmflow.study.variance_rows import measure_cell, variance_table

    study = read_study(args.config)
    cells = [cell for cell in study.cells() if (study.folder(cell) / f"{args.weights}.safetensors").is_file()]
    here = [cell for cell in cells if args.only in cell.name]
    if not here:
        raise ValueError(f"{study.out}: no cell has its weights here; records have none: `study.py run` makes them")
    rows = [row for cell in here for row in measure_cell(study, cell, args.weights, args.steps, args.batch)]
    console.print(variance_table(rows))
    console.print(f"{len(rows)} rows: {write_table(rows, Path(study.out), 'variance')}", markup=False, soft_wrap=True)
    return 0


def _metrics(args: argparse.Namespace) -> Any:
    from mmflow.study.standing import Metrics

    return Metrics(args.score, args.distance)


def _rows(args: argparse.Namespace) -> tuple[list[dict[str, Any]], str, list[dict[str, str]] | None]:
    """The table, the column that is ranked, and, with --config, the cells that it must hold."""
    from mmflow.study.table import label_columns, read_table

    rows = read_table(args.table)
    if args.config is None:
        return rows, args.by or label_columns(rows)[0], None
    from mmflow.study.plan import read_study

    study = read_study(args.config)
    return rows, args.by or study.rows, [cell.labels for cell in study.cells()]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = top.add_subparsers(dest="verb", required=True)
    verbs_of_a_file = (
        (run, "train, sample, score"),
        (collect, "write the table"),
        (sizes, "parameters and FLOPs"),
        (scale, "power laws over sizes"),
        (variance, "gradient variance"),
    )
    for verb, does in verbs_of_a_file:
        sub = verbs.add_parser(verb.__name__, help=does)
        sub.add_argument("--config", type=Path, required=True, help="the study's YAML")
        sub.set_defaults(function=verb)
    sub = verbs.choices["run"]
    sub.add_argument("--processes", type=int, default=1, help="cells at a time")
    sub.add_argument("--launcher", choices=("local", "slurm"), default="local")
    sub.add_argument("--sbatch", nargs="*", default=[], help='SLURM options, as in --sbatch="--gres=gpu:1"')
    sub.add_argument("--dry-run", action="store_true", help="slurm: write the script, do not submit it")
    sub.add_argument("--only", default="", help="cells whose name contains this")
    sub = verbs.add_parser("page", help="ranks of studies of objectives, as a page")
    sub.add_argument("--config", type=Path, nargs="+", required=True, help="the studies' YAMLs")
    sub.add_argument("--out", type=Path, required=True, help="the page")
    sub.set_defaults(function=page)
    sub = verbs.choices["variance"]
    sub.add_argument("--steps", type=int, default=64, help="to measure over, a multiple of 8")
    sub.add_argument("--batch", type=int, default=64, help="samples of a step")
    sub.add_argument("--weights", choices=("raw", "ema"), default="raw")
    sub.add_argument("--only", default="", help="cells whose name contains this")
    sub = verbs.choices["scale"]
    sub.add_argument("--held-out", help="value of the axis that no fit sees; the largest if not given")
    sub.add_argument("--first", type=int, default=0, help="steps before it are left out of L(N, D)")
    sub.add_argument("--out", type=Path, help="the page; scaling.md in the study's folder if not given")
    for verb, does in ((rank, "rank table"), (plot, "figures")):
        sub = verbs.add_parser(verb.__name__, help=does)
        sub.add_argument("table", help="table.csv, table.parquet, or the study's folder")
        sub.add_argument("--config", type=Path, help="the study's YAML: every cell of it must be in the table")
        sub.add_argument("--by", help="column to rank; the first one if not given")
        sub.add_argument("--score", default="score", help="column to maximise: score, or clip_score")
        sub.add_argument("--distance", default="kernel", help="column to minimise: kernel, frechet, clip_kernel")
        sub.set_defaults(function=verb)
    verbs.choices["plot"].add_argument(
        "--kind", choices=("ranks", "curves"), default="ranks", help="curves: of a study with `curve: true`"
    )
    verbs.choices["plot"].add_argument("--out", help="folder of the figures; beside the table if not given")
    return top


def main() -> int:
    """Runs one verb; errors in what the user gave end with one message."""
    args = parser().parse_args()
    if getattr(args, "processes", 1) < 1:
        console.print("error: --processes must be at least 1")
        return 1
    try:
        status: int = args.function(args)
    except (ValueError, OSError) as error:
        console.print(f"error: {escape(str(error))}", soft_wrap=True)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
