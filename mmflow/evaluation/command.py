"""The verbs of tools/score.py beside judging stores."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmflow.__main__ import quieten
from mmflow.evaluation.official import LAYOUTS, export, read_official
from mmflow.metrics.store import Store

console = Console(width=None if Console().is_terminal else 140)


def score_table(scores: dict[str, dict[str, Any]], title: str) -> Table:
    """Scores for people."""
    grid = Table(title=title, title_justify="left")
    for column in ("score", "value", "95 % interval", "n"):
        grid.add_column(column, justify="left" if column == "score" else "right")
    for name, score in scores.items():
        interval = "" if score.get("low") is None else f"{score['low']:.4g} - {score['high']:.4g}"
        grid.add_row(name, f"{score['value']:.4g}", interval, str(score["n"] or ""))
    return grid


def _export(args: argparse.Namespace) -> None:
    for line in export(Store.open(args.store), args.layout, args.out, args.fps):
        console.print(line, soft_wrap=True)


def _read(args: argparse.Namespace) -> None:
    scores = read_official(args.benchmark, args.sources)
    console.print(score_table(scores, f"{args.benchmark}, of the official evaluator"))
    _keep(args.json, scores)


def _autoencoder(args: argparse.Namespace) -> None:
    from mmflow.evaluation.autoencoder import autoencoder_report

    report = autoencoder_report(args.config, args.num, args.device, args.inception, args.lpips, args.backbone)
    for medium, scores in report["scores"].items():
        console.print(score_table(scores, f"{medium}s, encoded and decoded"))
    for line in report["said"]:
        console.print(line, soft_wrap=True)
    _keep(args.json, report)


def _efficiency(args: argparse.Namespace) -> None:
    from mmflow.evaluation.efficiency import Asked, efficiency_of_runs, table6

    asked = Asked(tuple(args.steps), args.prompts, args.images, args.seed, args.guidance, args.clip)
    rows = efficiency_of_runs(args.runs, asked, args.device)
    console.print(table6(rows))
    _keep(args.json, rows)


def _results(args: argparse.Namespace) -> None:
    from mmflow.evaluation.page import write_page

    for line in write_page(args.runs, args.out, args.device, args.prompts, args.held_out):
        console.print(line, soft_wrap=True)


def _keep(path: Path | None, content: Any) -> None:
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="tools/score.py")
    verbs = top.add_subparsers(dest="verb", required=True)
    sub = verbs.add_parser("export", help="write a store in an official layout")
    sub.add_argument("store", type=Path)
    sub.add_argument("out", type=Path, help="a new folder")
    sub.add_argument("--as", dest="layout", choices=LAYOUTS, required=True)
    sub.add_argument("--fps", type=float, default=8.0, help="of clips")
    sub.set_defaults(does=_export)
    sub = verbs.add_parser("read", help="read an official evaluator's results")
    sub.add_argument("benchmark", choices=("geneval", "compbench", "vbench"))
    sub.add_argument("sources", nargs="+", help="results; of compbench CATEGORY=vqa_result.json")
    sub.set_defaults(does=_read)
    sub = verbs.add_parser("autoencoder", help="PSNR, SSIM, LPIPS and rFID")
    sub.add_argument("--config", required=True, help="whose data.autoencoder and held-out samples are taken")
    sub.add_argument("--num", type=int, default=256, help="samples of each medium")
    sub.add_argument("--inception", help="weights: pt_inception-2015-12-05-6726825d.pth, for rFID")
    sub.add_argument("--lpips", help="weights of its backbone: torchvision's alexnet or vgg16")
    sub.add_argument("--backbone", choices=("alex", "vgg"), default="alex", help="of --lpips")
    sub.set_defaults(does=_autoencoder)
    sub = verbs.add_parser("efficiency", help="scores at few steps against many, path length, seconds")
    sub.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    sub.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50], help="the last is what others lose from")
    sub.add_argument("--prompts", type=int, default=20, help="of each GenEval task; with shards, captions")
    sub.add_argument("--images", type=int, default=1, help="per prompt")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--guidance", type=float, help="of the scores; the run's own if not given")
    sub.add_argument("--clip", help="a CLIP's folder: the score is CLIP score, as in the paper")
    sub.set_defaults(does=_efficiency)
    sub = verbs.add_parser("results", help="the page of results")
    sub.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    sub.add_argument("--out", type=Path, default=Path("docs/results.md"))
    sub.add_argument("--prompts", type=int, help="of each task; as tested, or 100, if not given")
    sub.add_argument("--held-out", type=int, help="of each task and held-out split, likewise")
    sub.set_defaults(does=_results)
    for name in ("autoencoder", "efficiency", "results"):
        verbs.choices[name].add_argument("--device", default="cpu")
    for name in ("read", "autoencoder", "efficiency"):
        verbs.choices[name].add_argument("--json", type=Path, help="write the numbers here as well")
    return top


def run(arguments: Sequence[str]) -> int:
    """Does what is asked; errors in what the user gave end with one message."""
    args = parser().parse_args(arguments)
    quieten()
    try:
        args.does(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
