"""What mmflow costs and saves, measured against what else one would use, on the same work, in one process and in turn.

    python tools/bench.py --group step limit            a training step against diffusers', and against its products
    python tools/bench.py --group mixed                 pictures and clips of all shapes against padding and buckets
    python tools/bench.py --group sample                sampling against StableDiffusion3Pipeline
    python tools/bench.py --group quality               time to one validation loss against a plain diffusers loop
    python tools/bench.py --group startup               --help and the first step against importing Lightning
    python tools/bench.py --group growth                time and memory by tokens, samples and depth
    python tools/bench.py --group packed data           packed tokens against dense ones; the loader against decoding
    python tools/bench.py --group objective             everything but the network, against a training step
    python tools/bench.py --group all --json FILE --plot FILE [--device cuda]
    python tools/bench.py --plot-from A.json B.json --plot FILE    one picture of what was measured at different times

Ratios are what to read: a noisy machine cancels out in them. Exit status 1 says that a figure was missed. `--clock cpu`
takes the process's own processor time, for a machine whose cores are shared; use one thread with it.
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_measure import Figure, Setting, markdown, plot, show
from rich.console import Console

from mmflow.model.ragged_attention import has_bf16_instructions

GROUPS = {
    "step": "bench_step",
    "limit": "bench_step",
    "mixed": "bench_mixed",
    "sample": "bench_sample",
    "quality": "bench_quality",
    "startup": "bench_startup",
    "growth": "bench_scale",
    "objective": "bench_objective",
    "packed": "bench_packed",
    "data": "bench_data",
}
"""Group -> file, whose function of the group's name measures it."""
REPEATS = 7


def main() -> int:
    """Measures, prints tables, and says by its status whether every figure was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", nargs="+", choices=[*GROUPS, "all"], default=["step"], help="which figures")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"interleaved pairs of runs ({REPEATS})")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="what time is read")
    what = "fp32, and bf16 where the processor has instructions for it"
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], help=what)
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes, and stop")
    parser.add_argument("--json", type=Path, help="write the figures here; figures of other groups in it stay")
    parser.add_argument("--markdown", type=Path, help="write the tables of all figures of the JSON, or of this call")
    parser.add_argument("--plot", type=Path, help="draw all figures of the JSON, or of this call")
    what = "measure nothing: --plot and --markdown show the groups of these files, each as the last of them has it"
    parser.add_argument("--plot-from", nargs="+", type=Path, metavar="JSON", help=what)
    args = parser.parse_args()
    if args.plot_from:
        return shown(args, parser)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    if args.clock == "cpu" and args.device != "cpu":
        parser.error("--clock cpu knows nothing of an accelerator's time")
    precisions = tuple(args.precision or usual_precisions(args.device))
    setting = Setting(torch.device(args.device), args.repeats, args.clock, precisions)
    console = Console(width=None if sys.stdout.isatty() else 150)
    about = machine(setting)
    console.print("; ".join(f"{key} {value}" for key, value in about.items()), highlight=False)
    if args.profile:
        console.print(importlib.import_module("bench_step").where_time_goes(setting), highlight=False)
        return 0
    found = {}
    for group in GROUPS if "all" in args.group else args.group:
        torch.manual_seed(0)
        began = time.perf_counter()
        found[group] = measured(group, setting)
        seconds = time.perf_counter() - began
        show(f"{group} ({args.clock} time, {args.repeats} repeats, measured in {seconds:.0f} s)", found[group], console)
    for precision, peak in setting.peaks.items():
        console.print(f"peak, {precision}: {peak.flops / 1e9:,.0f} GFLOP/s ({peak.source})", highlight=False)
    console.print("MFU = FLOPs of the products, forward and backward / (median seconds x peak)", highlight=False)
    written(kept(args.json, found, about, args.repeats) if args.json else found, args)
    return int(any(not figure.reached for figures in found.values() for figure in figures))


def shown(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """What has been measured before."""
    if not (args.plot or args.markdown):
        parser.error("--plot-from needs --plot FILE or --markdown FILE to write to")
    try:
        written(together(args.plot_from), args)
    except ValueError as error:
        parser.error(str(error))
    return 0


def written(every: dict[str, list[Figure]], args: argparse.Namespace) -> None:
    """The tables and the picture that were asked for."""
    if args.markdown:
        args.markdown.write_text("\n\n".join(f"### {name}\n\n{markdown(each)}" for name, each in every.items()) + "\n")
    if args.plot:
        plot(every, args.plot)


def measured(group: str, setting: Setting) -> list[Figure]:
    """All figures of a group."""
    function = getattr(importlib.import_module(GROUPS[group]), group)
    if group != "data":
        figures: list[Figure] = function(setting)
        return figures
    # The loader's group takes its own medians, of wall time.
    return [
        Figure(
            *(name, (f["ours_ms"] / 1e3,), (f["peer_ms"] / 1e3,), f["reach"]),
            note=f"quartiles of the ratio {f['low']:.2f} - {f['high']:.2f}, wall time",
        )
        for name, f in function(setting.repeats).items()
    ]


def usual_precisions(device: str) -> list[str]:
    """Both, but for a CPU that takes several times as long in bf16 as in fp32: nobody trains so on it."""
    return ["fp32", "bf16"] if device != "cpu" or has_bf16_instructions() else ["fp32"]


def machine(setting: Setting) -> dict[str, Any]:
    """What the figures were taken on and of."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    about: dict[str, Any] = {"commit": commit.stdout.strip() or "unknown", "torch": torch.__version__}
    if setting.device.type == "cuda":
        return about | {"device": torch.cuda.get_device_name(setting.device)}
    instructions = f"{torch.backends.cpu.get_cpu_capability()}, {'with' if has_bf16_instructions() else 'no'} bf16"
    return about | {
        "processor": f"{platform.machine()} ({instructions} instructions)",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def kept(path: Path, found: dict[str, list[Figure]], about: dict[str, Any], repeats: int) -> dict[str, list[Figure]]:
    """Writes the file: these groups anew, beside those that it has. Returns the figures of all."""
    every = json.loads(path.read_text()) if path.is_file() else {}
    for group, figures in found.items():
        taken = {"machine": about, "command": " ".join(sys.argv), "repeats": repeats}
        every[group] = taken | {"figures": [figure.as_json() for figure in figures]}
    path.write_text(json.dumps(every, indent=1) + "\n")
    return together([path])


def together(paths: Sequence[Path]) -> dict[str, list[Figure]]:
    """The figures of several files by group, in the order of `GROUPS`; of a group in two files, those of the later.

    Raises:
        ValueError: if one of them is none that `kept` wrote.
    """
    found: dict[str, list[Figure]] = {}
    for path in paths:
        try:
            for group, taken in json.loads(path.read_text()).items():
                found[group] = [Figure.of_json(figure) for figure in taken["figures"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no figures of tools/bench.py --json ({error!r})") from error
    unknown = sorted(found.keys() - GROUPS.keys())
    if unknown:
        raise ValueError(f"there is no group {', '.join(unknown)}: {', '.join(GROUPS)} are known")
    return {group: found[group] for group in GROUPS if group in found}


if __name__ == "__main__":
    sys.exit(main())
