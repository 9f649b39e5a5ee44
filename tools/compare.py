"""Is B better than A? From what runs have left; nothing is trained or sampled.

python tools/compare.py RUN_A RUN_B                paired test of validation losses on the samples and noise they share
python tools/compare.py RUN@ema:4000 RUN@raw:8000  weights and steps of either; else the newest, averaged where both are
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("runs", nargs="+", help="run directories, or files of their surface/")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Does what is asked; errors in what the user gave end with one message."""
    args = parser().parse_args(arguments)
    try:
        if len(args.runs) != 2:
            raise ValueError(f"a comparison takes two runs, got {len(args.runs)}")
        return compare_losses(*args.runs)
    except (ValueError, OSError) as error:
        console.print(f"error: {escape(str(error))}", soft_wrap=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
