"""What a training run will cost, before it runs: FLOPs, memory per rank, bytes on the wire, days, caches.

    python tools/plan.py --config configs/image_d24.yaml --gpus 8 --gpu h100
    python tools/plan.py --config configs/image_d38.yaml --gpus 256 --gpu h100 --mfu 0.4 --data.batch_size 4096

Nothing is allocated: the network is on the meta device, and a step is followed through tensors without storage. What
follows the known settings is passed on to the configuration, as on fit's command line. Exit code 1: it does not fit.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mmflow.__main__ import quieten
from mmflow.planning.configuration import Planned, planned
from mmflow.planning.hardware import GPUS, Gpu, gpu_of
from mmflow.planning.plan import Fit, best, cache_bytes, gigabytes, job_flops, job_line, least_ranks, ways


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/plan.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, metavar="C", help="a configuration of fit")
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="accelerators in all")
    parser.add_argument("--gpu", required=True, help=f"one of {', '.join(GPUS)}, or name:GB:TFLOPS[:GB/s]")
    parser.add_argument("--node", type=int, default=8, help="accelerators of a node (8)")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of the peak that is reached (0.4), for the days")
    parser.add_argument("--words", type=int, default=64, help="text tokens of a caption (64), where not fixed")
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
        line = job_line(plan.job)
        fits = ways(plan.job, line, given.gpus, gpu, given.node)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console(width=None if Console().is_terminal else 140)
    for said in _work(plan, given.gpus, gpu, given.mfu):
        console.print(said, highlight=False)
    console.print(_layouts(fits, gpu))
    for note in plan.notes:
        console.print(f"  assumed: {note}", highlight=False)
    ranks = None if best(fits) else least_ranks(plan.job, line, given.gpus, gpu)
    return _verdict(console, plan, fits, given.gpus, gpu, ranks)


def _work(plan: Planned, gpus: int, gpu: Gpu, mfu: float) -> list[str]:
    job = plan.job
    flops = job_flops(job)
    in_mix = sum(shape.samples for shape in job.mix)
    step = flops.total * job.batch / in_mix
    tokens = sum(s.samples * job.model.check_shape(*s.latents) for s in job.mix) * job.batch / in_mix
    seconds = step / (gpus * gpu.flops * mfu)
    lines = [
        f"{plan.job.weights / 4e6:,.1f} M parameters; a step of {job.batch:,} samples has {tokens:,.0f} visual tokens",
        f"{step:.3e} FLOPs a step, forward and backward, {flops.attention / flops.total:.1%} of them attention",
        f"at {mfu:.0%} of {gpus} x {gpu.name}: {seconds:.2f} s a step, {tokens / seconds:,.0f} visual tokens/s "
        f"(MFU = FLOPs a step / (seconds x {gpus} x {gpu.flops:.3g}))",
    ]
    if job.steps is not None:
        days = seconds * job.steps / 86400
        lines.append(f"{job.steps:,} steps: {days:,.1f} days, {days * 24 * gpus:,.0f} GPU hours")
    each = cache_bytes(job, [plan.context_width])
    lines.append(f"caches: {each / 1e3:,.0f} kB a sample, {each * 1e6 / 1e9:,.0f} GB for a million")
    return lines


def _layouts(fits: Sequence[Fit], gpu: Gpu) -> Table:
    table = Table(title=f"Memory of a rank, of {gigabytes(gpu.memory)}", title_justify="left")
    for name in (
        "layout",
        "samples",
        "weights",
        "moments",
        "average",
        "step",
        "gathered",
        "frozen",
        "total",
        "",
        "wire",
    ):
        table.add_column(name, justify="left" if name == "layout" else "right")
    for fit in fits:
        m = fit.memory
        table.add_row(
            "DDP" if fit.shards == 1 else f"shards of {fit.shards}",
            f"{fit.micro_steps} x {fit.samples}",
            *(f"{x / 1e9:.1f}" for x in (m.weights, m.moments, m.averages, m.step, m.gathered, m.frozen, m.total)),
            "fits" if fit.fits else "too much",
            gigabytes(fit.wire),
        )
    return table


def _verdict(console: Console, plan: Planned, fits: Sequence[Fit], gpus: int, gpu: Gpu, ranks: int | None) -> int:
    chosen = best(fits)
    if chosen is not None:
        layout = "DDP" if chosen.shards == 1 else f"shards of {chosen.shards} ranks"
        console.print(
            f"take {layout}: {plan.job.batch:,} samples = {gpus} ranks x {chosen.micro_steps} micro-steps of up to "
            f"{chosen.samples}",
            highlight=False,
        )
        return 0
    way_out = f"{ranks} ranks that share the weights would hold it" if ranks else "no number of ranks holds one sample"
    print(f"error: nothing fits {gpus} x {gpu.name}: {way_out}; or take larger accelerators", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
