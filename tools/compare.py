"""Is B better than A, and does the loss say what the scores say? From what runs have left; nothing is trained.

python tools/compare.py RUN_A RUN_B                paired test of validation losses on the samples and noise they share
python tools/compare.py RUN@ema:4000 RUN@raw:8000  weights and steps of either; else the newest, averaged where both are
python tools/compare.py --correlate RUN...         loss against each score over the checkpoints of one or several runs
python tools/compare.py --correlate RUN... --votes SESSION    people's votes (tools/human_eval.py) as one of the scores
python tools/compare.py --report RUN --out F.md    a run's charts, table and what predicted what: a page with figures
"""

import argparse
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmflow.metrics.loss_surface import LossSurface
from mmflow.metrics.paired import Comparison, compare
from mmflow.metrics.surface_file import read_surface, surface_paths

console = Console(width=None if Console().is_terminal else 140)


def surface_of(name: str) -> tuple[LossSurface, str | None]:
    """The surface and the kind of weights that `RUN|file[@ema|@raw][:step]` names.

    Raises:
        ValueError: if there is none.
    """
    match = re.fullmatch(r"(.*?)(?:@(ema|raw))?(?::(\d+))?", name)
    assert match is not None
    path, kind, step = Path(match[1]), match[2], match[3]
    if step is None:
        return read_surface(path), kind
    found = surface_paths(path)
    if int(step) not in found:
        raise ValueError(f"{path} was validated at steps {', '.join(map(str, found)) or 'none'}: not at {step}")
    return read_surface(found[int(step)]), kind


def compare_losses(first: str, second: str) -> int:
    """Prints the paired test of two surfaces."""
    (a, kind_a), (b, kind_b) = surface_of(first), surface_of(second)
    shared = "ema" if "ema" in a.kinds and "ema" in b.kinds else "raw"
    kinds = kind_a or shared, kind_b or shared
    found = compare(a, b, kinds)
    console.print(table(found, f"{first} ({kinds[0]}, step {a.step})", f"{second} ({kinds[1]}, step {b.step})"))
    if found.only_a or found.only_b:
        console.print(f"left out: {found.only_a} samples that only A has, {found.only_b} that only B has")
    console.print(f"verdict: {found.sentence()}", soft_wrap=True)
    return 0


def table(found: Comparison, a: str, b: str) -> Table:
    """The differences for people."""
    grid = Table(title=escape(f"A {a}\nB {b}"), title_justify="left")
    for name in ("stratum", "A", "B", "B - A", "95 %", "unpaired", "n", "B is"):
        grid.add_column(name, justify="left" if name in ("stratum", "B is") else "right")
    for d in found.differences:
        halves = (f"+- {100 * half:.2f} %" for half in (d.half, d.unpaired_half))
        change = f"{100 * d.change:+.2f} %"
        grid.add_row(escape(d.stratum), f"{d.a:.5f}", f"{d.b:.5f}", change, *halves, str(d.n), d.verdict)
    return grid


def correlate(args: argparse.Namespace) -> int:
    """Prints agreement of losses and scores, the best predictors and the checkpoint to keep."""
    from mmflow.metrics.evidence import gather_evidence
    from mmflow.train.preference import plain

    runs = [Path(run) for run in args.runs]
    voted = None
    if args.votes is not None:
        from mmflow.people.checkpoints import voted_checkpoints

        voted = voted_checkpoints(args.votes)
    evidence = gather_evidence(runs, args.weights, voted)
    found = plain(evidence)
    counts = ", ".join(f"{name} {len(steps)}" for name, steps in found["checkpoints"].items())
    console.print(escape(f"checkpoints both validated and scored: {counts}; {evidence.kind} weights"), soft_wrap=True)
    if not found["agreement"]:
        number = len(evidence.points)
        raise ValueError(f"{number} checkpoints are too few to correlate, or no score moved: 8 are the least")
    grid = Table(title="Agreement: minus the correlation of loss and score", title_justify="left")
    for name in ("score", "loss", "coefficient", "agreement", "95 %", "n", "worth"):
        grid.add_column(name, justify="left" if name in ("score", "loss", "coefficient") else "right")
    for r in found["agreement"]:
        if " t=" not in r["stratum"]:
            interval = f"{r['low']:+.2f} to {r['high']:+.2f}"
            names = [escape(r[name]) for name in ("score", "stratum", "coefficient")]
            grid.add_row(*names, f"{r['agreement']:+.2f}", interval, str(r["n"]), f"{r['effective']:.1f}")
    console.print(grid)
    if len(runs) == 1:
        console.print("one run: its checkpoints drift together; several runs say more")
    for line in [each["said"] for each in found["recommendations"]] + found["refused"]:
        console.print(escape(line), soft_wrap=True)
    if args.out is not None:
        from mmflow.report.plot import depth_of, plot_scatter

        depths = dict(zip(evidence.runs, map(depth_of, runs), strict=True))
        known = {name: depth for name, depth in depths.items() if depth is not None}
        path = plot_scatter(evidence, known if len(known) == len(depths) else None, args.out)
        console.print(f"figure  {escape(str(path))}", soft_wrap=True)
    return 0


def report(args: argparse.Namespace) -> int:
    """Writes the page of a run."""
    from mmflow.report.page import write_page

    if len(args.runs) != 1:
        raise ValueError(f"a report is of one run, got {len(args.runs)}")
    run = Path(args.runs[0])
    page = write_page(run, args.out or run / "signals.md")
    console.print(f"page  {escape(str(page))}", soft_wrap=True)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("runs", nargs="+", help="run directories, or files of their surface/")
    does = top.add_mutually_exclusive_group()
    does.add_argument("--correlate", action="store_true", help="loss against scores")
    does.add_argument("--report", action="store_true", help="write the page of one run")
    top.add_argument("--weights", choices=("ema", "raw"), help="correlate: averaged where all have them, if not given")
    top.add_argument("--votes", type=Path, metavar="SESSION", help="correlate: the checkpoints that people voted on")
    top.add_argument("--out", type=Path, help="report: the page; correlate: a PNG of scores against loss")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Does what is asked; errors in what the user gave end with one message."""
    args = parser().parse_args(arguments)
    try:
        if args.correlate:
            return correlate(args)
        if args.report:
            return report(args)
        if len(args.runs) != 2:
            raise ValueError(f"a comparison takes two runs, got {len(args.runs)}")
        return compare_losses(*args.runs)
    except (ValueError, OSError) as error:
        console.print(f"error: {escape(str(error))}", soft_wrap=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
