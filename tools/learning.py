"""How a run of the shapes world grew: every checkpoint is judged by the full protocol; scores are drawn over steps.

python tools/learning.py RUN                                  RUN/learning/scores.csv and scores.png
python tools/learning.py RUN --prompts 25 --figure docs/quickstart_scores.png

A checkpoint that was judged before with the same numbers is not judged again.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from mmflow.study.cell import saved_steps
from mmflow.study.logged import losses

SHOWN = {
    "geneval/single_object": "single object",
    "geneval/colors": "colours",
    "motion/accuracy": "motion",
    "geneval/overall": "GenEval overall",
}
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728")
console = Console(width=None if Console().is_terminal else 120)


def checkpoints(run: Path) -> dict[int, Path]:
    """Optimizer steps done -> checkpoint, in order.

    Raises:
        ValueError: if there is none.
    """
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run} is no run directory: it has no config.yaml")
    found = dict(sorted(saved_steps(run).items()))
    if not found:
        raise ValueError(
            f"{run}/checkpoints has no step-*.ckpt: give a run directory, trained with checkpoints.keep -1"
        )
    return found


def judged(checkpoint: Path, out: Path, prompts: int, images: int) -> dict[str, Any]:
    """Scores of one checkpoint, from `validate`.

    Raises:
        ValueError: if `validate` fails, with the end of what it said.
    """
    kept = out / f"{checkpoint.stem}-{prompts}x{images}"
    if not (kept / "results.json").is_file():
        command = [sys.executable, "-m", "mmflow", "validate", "--ckpt_path", str(checkpoint)]
        command += ["--trainer.default_root_dir", str(kept), "--wandb.mode", "off"]
        command += ["--scores.full.prompts", str(prompts), "--scores.full.images", str(images)]
        done = subprocess.run([*command, "--scores.full.held_out_prompts", "0"], capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{checkpoint} could not be judged:\n{(done.stdout + done.stderr)[-2000:]}")
    scores: dict[str, Any] = json.loads((kept / "results.json").read_text())["scores"]
    return scores


def write(path: Path, scores: dict[int, dict[str, Any]]) -> None:
    """One row per checkpoint and score."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "score", "value", "low", "high", "n", "chance"])
        for step, found in scores.items():
            for name, score in found.items():
                writer.writerow([step, name, *(score.get(key, "") for key in ("value", "low", "high", "n", "chance"))])


def draw(path: Path, scores: dict[int, dict[str, Any]], loss: dict[int, dict[str, float]]) -> None:
    """Scores with their 95 % intervals and chance, and the validation loss."""
    from mmflow.report.plot import pyplot

    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    steps = list(scores)
    for color, (name, label) in zip(COLORS, SHOWN.items(), strict=True):
        own = [(step, scores[step][name]) for step in steps if name in scores[step]]
        if own:
            x, each = zip(*own, strict=True)
            left.plot(x, [s["value"] for s in each], "o-", ms=4, color=color, label=label)
            left.fill_between(x, [s["low"] for s in each], [s["high"] for s in each], color=color, alpha=0.12, lw=0)
            if each[-1].get("chance") is not None:
                left.axhline(each[-1]["chance"], color=color, lw=0.8, ls=":")
    left.set(xlabel="optimizer steps", ylabel="score; dotted: chance", ylim=(0, 1), xlim=(0, None))
    left.legend(frameon=False, fontsize=8)
    for medium in ("pictures", "clips"):
        by_step = {step: each[medium] for step, each in loss.items() if medium in each}
        right.plot(list(by_step), list(by_step.values()), "o-", ms=4, label=medium)
    right.set(xlabel="optimizer steps", ylabel="validation loss, averaged weights", yscale="log", xlim=(0, None))
    right.legend(frameon=False, fontsize=8)
    for panel in (left, right):
        panel.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory with checkpoints.keep -1")
    parser.add_argument("--prompts", type=int, default=25, help="per task (default: 25)")
    parser.add_argument("--images", type=int, default=4, help="per prompt (default: 4)")
    parser.add_argument("--figure", type=Path, help="where to draw (default: RUN/learning/scores.png)")
    args = parser.parse_args(argv)
    out = args.run / "learning"
    try:
        found = checkpoints(args.run)
        scores = {
            step: judged(path, out, args.prompts, args.images)
            for step, path in track(found.items(), "judging", console=console)
        }
        loss = losses(args.run)
    except (ValueError, OSError) as error:
        console.print(f"[red]error:[/] {error}", soft_wrap=True, markup=True)
        return 2
    write(out / "scores.csv", scores)
    figure = args.figure or out / "scores.png"
    draw(figure, scores, loss)
    console.print(f"{out / 'scores.csv'}, {figure}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
