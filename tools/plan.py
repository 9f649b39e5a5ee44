"""What a training run will cost, before it runs: FLOPs, memory per rank, bytes on the wire, days, caches.

    python tools/plan.py --config configs/image_d24.yaml --gpus 8 --gpu h100
    python tools/plan.py --config configs/image_d38.yaml --gpus 256 --gpu h100 --mfu 0.4 --data.batch_size 4096
    python tools/plan.py --config configs/image_d24.yaml --audit      # error of each part against fp64, red or green

Nothing is allocated: the network is on the meta device, and a step is followed through tensors without storage. What
follows the known settings is passed on to the configuration, as on fit's command line. Exit code 1: it does not fit, or
a part of the audit is red.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mmflow.__main__ import quieten
from mmflow.planning.audit import audit
from mmflow.planning.configuration import Planned, planned
from mmflow.planning.hardware import GPUS, Gpu, gpu_of
from mmflow.planning.plan import (
    Fit,
    best,
    cache_bytes,
    gigabytes,
    job_flops,
    job_lines,
    least_ranks,
    saved_bytes,
    seconds,
    ways,
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/plan.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="C", help="a configuration of fit")
    parser.add_argument("--gpus", type=int, default=8, metavar="N", help="accelerators in all (8)")
    parser.add_argument("--gpu", default="h100", help=f"one of {', '.join(GPUS)}, or name:GB:TFLOPS[:GB/s]")
    parser.add_argument("--node", type=int, default=8, help="accelerators of a node (8)")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is reached (0.4), for the days")
    parser.add_argument("--words", type=int, default=64, help="text tokens of a caption (64), where not fixed")
    parser.add_argument(
        "--audit", action="store_true", help="how exact each part is in the run's precision, and no plan"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = _parser()
    given, overrides = parser.parse_known_args(arguments)
    quieten()
    try:
        if given.gpus < 1 or given.node < 1 or not 0 < given.mfu <= 1 or given.words < 1:
            raise ValueError("need --gpus, --node and --words of at least 1, and --mfu in (0, 1]")
        gpu = gpu_of(given.gpu)
        plan = planned(given.config, overrides, given.words)
        if given.audit:
            return _audited(plan)
        lines = job_lines(plan.job)
        fits = ways(plan.job, lines, given.gpus, gpu, given.node)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console(width=None if Console().is_terminal else 140)
    for said in _work(plan, given.gpus, gpu, given.mfu):
        console.print(said, highlight=False)
    console.print(_layouts(plan, fits, given.gpus, gpu, given.mfu))
    console.print("wire at the link of one node; s/step is the longer of computing and sending", highlight=False)
    for note in plan.notes:
        console.print(f"  assumed: {note}", highlight=False)
    chosen = best(plan.job, fits, given.gpus, gpu, given.mfu)
    ranks = None if chosen else least_ranks(plan.job, lines["block"], given.gpus, gpu)
    return _verdict(console, plan, chosen, given.gpus, gpu, ranks)


def _audited(plan: Planned) -> int:
    dtype = torch.bfloat16 if plan.job.half else torch.float32
    parts = audit(plan.job.model.width, dtype)
    table = Table(title=f"Errors against fp64, {plan.precision}, width {plan.job.model.width}", title_justify="left")
    for column in ("part", "error", "limit", ""):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part in parts:
        verdict = "[green]green[/]" if part.is_green else "[red]red[/]"
        table.add_row(part.name, f"{part.error:.1e}", f"{part.limit:.1e}", verdict)
    Console().print(table)
    return int(not all(part.is_green for part in parts))


def _work(plan: Planned, gpus: int, gpu: Gpu, mfu: float) -> list[str]:
    job = plan.job
    flops = job_flops(job)
    in_mix = sum(shape.samples for shape in job.mix)
    step = flops.total * job.batch / in_mix
    tokens = sum(s.samples * job.model.check_shape(*s.latents) for s in job.mix) * job.batch / in_mix
    each_step = step / (gpus * gpu.flops * mfu)
    lines = [
        f"{plan.job.weights / 4e6:,.1f} M parameters; a step of {job.batch:,} samples has {tokens:,.0f} visual tokens",
        f"{step:.3e} FLOPs a step, forward and backward, {flops.attention / flops.total:.1%} of them attention",
        f"at {mfu:.0%} of {gpus} x {gpu.name}: {each_step:.2f} s a step, {tokens / each_step:,.0f} visual tokens/s "
        f"(MFU = FLOPs a step / (seconds x {gpus} x {gpu.flops:.3g}))",
    ]
    if job.steps is not None:
        days = each_step * job.steps / 86400
        lines.append(f"{job.steps:,} steps: {days:,.1f} days, {days * 24 * gpus:,.0f} GPU hours")
    between = plan.aside
    lines.append(
        f"between steps: encode {gigabytes(between.encode)}, decode {gigabytes(between.decode)}, preview "
        f"{gigabytes(between.preview)}, save {gigabytes(between.save)} at a time; a checkpoint is "
        f"{gigabytes(saved_bytes(job))}"
    )
    each = cache_bytes(job, [plan.context_width])
    lines.append(f"caches: {each / 1e3:,.0f} kB a sample, {each * 1e6 / 1e9:,.0f} GB for a million")
    return lines


def _layouts(plan: Planned, fits: Sequence[Fit], gpus: int, gpu: Gpu, mfu: float) -> Table:
    table = Table(title=f"Memory of a rank, of {gigabytes(gpu.memory)}", title_justify="left")
    for name in (
        "layout",
        "recompute",
        "samples",
        "weights",
        "moments",
        "average",
        "step",
        "gathered",
        "frozen",
        "aside",
        "total",
        "",
        "wire",
        "s/step",
    ):
        table.add_column(name, justify="left" if name == "layout" else "right")
    for fit in fits:
        m = fit.memory
        table.add_row(
            "DDP" if fit.shards == 1 else f"shards of {fit.shards}",
            fit.recompute,
            f"{fit.micro_steps} x {fit.samples}",
            *(
                f"{x / 1e9:.1f}"
                for x in (m.weights, m.moments, m.averages, m.step, m.gathered, m.frozen, m.aside, m.total)
            ),
            "fits" if fit.fits else "too much",
            gigabytes(fit.wire),
            f"{seconds(plan.job, fit, gpus, gpu, mfu):.2f}",
        )
    return table


def _verdict(console: Console, plan: Planned, chosen: Fit | None, gpus: int, gpu: Gpu, ranks: int | None) -> int:
    if chosen is not None:
        layout = "DDP" if chosen.shards == 1 else f"shards of {chosen.shards} ranks"
        console.print(
            f"take {layout}: {plan.job.batch:,} samples = {gpus} ranks x {chosen.micro_steps} micro-steps of up to "
            f"{chosen.samples}; parallel.recompute {chosen.recompute}"
            + (f", where the configuration has {plan.recompute}" if chosen.recompute != plan.recompute else ""),
            highlight=False,
        )
        return 0
    way_out = f"{ranks} ranks that share the weights would hold it" if ranks else "no number of ranks holds one sample"
    print(f"error: nothing fits {gpus} x {gpu.name}: {way_out}; or take larger accelerators", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
