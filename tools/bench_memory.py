"""Whether a loader's worker keeps to its memory over a pass, as a graph.

    python tools/bench_memory.py OUT.png

48 tars of 1,000 small pictures, three shuffle windows, are read once by one worker; its resident memory is noted after
every batch. Exit status 1 says that the last quarter of the pass has over 5 % more than the second one.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_growth import BATCH, SAMPLES, write
from torch.utils.data import DataLoader

from mmflow.data.deal import Dealing
from mmflow.data.mix import Mix
from mmflow.data.plan import Plan
from mmflow.data.reader import Draws, ShareReader, ShareSampler
from mmflow.data.source import Framing
from mmflow.shapes.world import World

SHARDS, MOST = 48, 1.05


def resident(pid: int) -> float:
    """MB of memory that a process holds and shares with no other: what it was forked with does not count."""
    said = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split(":") for line in said.splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty")) / 1024


def over_a_pass(folder: str) -> list[float]:
    """Of the worker, after every batch."""
    mix = Mix(World(), folder, folder, 0.0, Framing(((16, 16),), 1, 8.0, random=True), seed=0)
    sources, weights = mix.train
    plan = Plan(sources, weights, BATCH, end=SHARDS * SAMPLES)
    reader = ShareReader(sources, Draws(0, 0.1, True), lambda t, h, w: (3, t, h, w))
    sampler = ShareSampler(plan, 0, 0, Dealing(1))
    batches: Any = iter(
        DataLoader(reader, sampler=sampler, batch_size=None, num_workers=1, multiprocessing_context="fork")
    )
    (worker,) = batches._workers
    found, read = [], 0
    for batch in batches:
        read += len(batch)
        if read < SHARDS * SAMPLES:  # after the last batch it may be gone
            found.append(resident(worker.pid))
    assert read == SHARDS * SAMPLES
    return found


def main() -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT.png", help="the graph")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary) / "shards", SHARDS)
        found = over_a_pass(f"{temporary}/shards")
    from matplotlib.figure import Figure  # late: only the graph needs it

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([(n + 1) * BATCH for n in range(len(found))], found, lw=0.8)
    axes.set(xlabel="samples read", ylabel="MB of the worker", ylim=(0, 1.2 * max(found)), xlim=(0, SHARDS * SAMPLES))
    axes.set_title(f"one pass over {SHARDS} tars of {SAMPLES} pictures, windows of 16 tars", fontsize=9)
    figure.savefig(given.out, dpi=110)
    quarter = len(found) // 4
    second, last = (statistics.median(found[n * quarter : (n + 1) * quarter]) for n in (1, 3))
    print(f"{given.out}: {second:.1f} MB in the second quarter, {last:.1f} MB in the last, at most {max(found):.1f} MB")
    return 0 if last <= MOST * second else 1


if __name__ == "__main__":
    sys.exit(main())
