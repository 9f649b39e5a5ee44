"""Pictures carried to video on the shapes world: train, score, compare. What docs/video.md shows.

python tools/video.py run OUT             a model of pictures, that model carried to clips, one from scratch in the same
                                          compute, and first-frame conditioning; goes on where it was stopped
python tools/video.py first-frame RUN     motion from text alone and from first frames, of any run on the shapes world
python tools/video.py plot OUT            the figure
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(width=None if Console().is_terminal else 120)


def run(args: argparse.Namespace) -> None:
    """Trains what is not trained yet, asks every checkpoint that was not asked yet, and prints the comparison."""
    from mmflow.cli import MmflowCLI
    from mmflow.study.carried import Steps, from_first_frames, is_trained, plan, score
    from mmflow.train.run import write_json

    steps = Steps(args.picture_steps, args.clip_steps, args.first_frame_steps)
    for name, arguments in plan(args.config, args.out, steps).items():
        if not is_trained(arguments):
            console.print(escape(f"{name}: python -m mmflow {' '.join(arguments)}"), soft_wrap=True)
            MmflowCLI(arguments).run()
        score(args.out / name, args.prompts)
    found = from_first_frames(args.out / "first_frame", args.prompts) if steps.first_frame else None
    if found is not None:
        write_json(args.out / "first_frame.json", found)
    compare(args.out, args.prompts, found)


def compare(out: Path, prompts: int, first_frames: dict[str, Any] | None) -> None:
    """Scores and validation losses at the ends of the runs, and of the carried one at every checkpoint."""
    from mmflow.metrics.protocol import MOTION
    from mmflow.study.carried import PICTURES, score
    from mmflow.study.logged import losses

    grid = Table(title="Shapes world, judged exactly", title_justify="left")
    for column in ("checkpoint", "pictures right", "motion right", "picture loss", "clip loss"):
        grid.add_column(column)
    for name in ("pictures", "carried", "scratch", "first_frame"):
        if (out / name / "carried.json").is_file():
            rows, lost = score(out / name, prompts), losses(out / name)
            for row in rows if name == "carried" else rows[-1:]:
                numbers = [lost.get(row["step"], {}).get(medium) for medium in ("pictures", "clips")]
                grid.add_row(
                    f"{name}, step {row['step']}",
                    said(row.get(PICTURES)),
                    said(row.get(MOTION)),
                    *("" if number is None else f"{number:.4f}" for number in numbers),
                )
    console.print(grid)
    if first_frames is not None:
        show_first_frames(first_frames)


def said(score: dict[str, float] | None) -> str:
    return "" if score is None else f"{score['value']:.2f} ({score['low']:.2f} - {score['high']:.2f}, n {score['n']})"


def show_first_frames(found: dict[str, Any]) -> None:
    names = {
        "text": "text alone",
        "first_frame": "first frame given, guidance drops it",
        "first_frame_kept": "first frame given, guidance keeps it",
    }
    for key, name in names.items():
        console.print(f"motion right, {name}: {said(found[key])}")
    held, free, text = (found["distance"][name] for name in ("held", "free", "text"))
    console.print(
        f"first frame made, from the one given: {held:.2f} of 255 levels; {free:.2f} where the network is shown it and "
        f"nothing holds it; {text:.2f} from text alone"
    )


def first_frame(args: argparse.Namespace) -> None:
    """Asks one run."""
    from mmflow.study.carried import from_first_frames

    show_first_frames(from_first_frames(args.run, args.prompts))


def plot(args: argparse.Namespace) -> None:
    """Draws the figure beside the runs, or where it is told."""
    from mmflow.study.carried_plot import plot_carried

    console.print(escape(str(plot_carried(args.config, args.out, args.figure or args.out / "carried.png"))))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = top.add_subparsers(required=True, metavar="verb")

    def verb(function: Any, *operands: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(function.__name__.replace("_", "-"), help=function.__doc__)
        for name in operands:
            sub.add_argument(name, type=Path)
        sub.set_defaults(function=function)
        return sub

    runs, drawn = verb(run, "out"), verb(plot, "out")
    runs.add_argument("--picture-steps", type=int, default=900)
    runs.add_argument("--clip-steps", type=int, default=900)
    runs.add_argument("--first-frame-steps", type=int, default=300, help="0 leaves it out")
    for sub in (runs, drawn):
        sub.add_argument("--config", type=Path, default=Path("configs/carried.yaml"))
    drawn.add_argument("--figure", type=Path, help="a .png")
    for sub in (runs, verb(first_frame, "run")):
        sub.add_argument("--prompts", type=int, default=48, help="pictures, and clips, that a checkpoint is asked for")
    return top


def main() -> int:
    """Runs one verb; errors in what the user gave end with one message."""
    from mmflow.__main__ import quieten

    args = parser().parse_args()
    quieten()
    try:
        args.function(args)
    except (ValueError, OSError) as error:
        console.print(f"error: {escape(str(error))}", soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
