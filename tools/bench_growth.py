"""Whether start-up and resume grow with the data.

    python tools/bench_growth.py [--json FILE]

Folders of 10, 1,000 and 10,000 shards with 1,000 samples each, all of them links to one small tar, with a manifest that
says so: for a plan they are as good as real ones. Measured in a fresh process, above its imports: seconds and memory
until the first batch is read, and the same at the run's resume a thousand samples before the end of the first pass.
Exit status 1 says that a limit was missed: 3 s of wall time (or, on a machine that others use, of CPU time) and 300 MB.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from mmflow.data.index import build_index, index_path
from mmflow.data.manifest import NAME, Manifest, as_json, summarize
from mmflow.data.mix import Mix
from mmflow.data.plan import Filling
from mmflow.data.reader import Draws, ShareReader
from mmflow.data.shard import ShardSample, write_shard
from mmflow.data.source import Framing
from mmflow.data.train_order import TrainOrder
from mmflow.shapes.world import World

SHARDS, SAMPLES, BATCH = (10, 1000, 10_000), 1000, 64
SECONDS, MEGABYTES = 3.0, 300.0
"""What a start may take beside its imports."""
FORMS = {"s": ".2f", "cpu_s": ".2f", "mb": ".0f"}


def write(folder: Path, shards: int) -> None:
    """So many links to one tar of tiny pictures, their indexes, and the manifest."""
    folder.mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "navy").save(buffer, "PNG")
    first = folder / "00000.tar"
    write_shard(first, (ShardSample(f"{n:09d}", "png", buffer.getvalue(), f"number {n}") for n in range(SAMPLES)))
    summary = summarize(build_index(first))
    for n in range(1, shards):
        tar = folder / f"{n:05d}.tar"
        os.link(first, tar)
        os.link(index_path(str(first)), index_path(str(tar)))
    summaries = (replace(summary, name=f"{n:05d}.tar") for n in range(shards))
    (folder / NAME).write_bytes(as_json(Manifest(tuple(summaries))))


def begin(folder: str, position: int) -> dict[str, float]:
    """Open the shards, take up a place, plan a step and read its samples; seconds and megabytes above the imports."""
    Path("/proc/self/clear_refs").write_text("5")  # the most so far counts anew: what imports needed is not meant
    before = _megabytes("VmRSS")
    started, worked = time.perf_counter(), time.process_time()
    mix = Mix(World(), folder, folder, 0.0, Framing(((16, 16),), 1, 8.0, random=True), seed=0)
    sources, weights = mix.train
    about = {"seed": 0, "world": None}
    order = TrainOrder(sources, weights, Filling(BATCH), about)
    if position:
        state = order.state()
        order = TrainOrder(sources, weights, Filling(BATCH), about)
        order.take_up({**state, "position": position})
    step = order.plan.step(order.position)
    assert step is not None and len(step.items) == BATCH
    reader = ShareReader(sources, Draws(0, 0.1, True), lambda t, h, w: (3, t, h, w))
    frames = [reader.sources[item.source].read(item).frames for item in step.items]
    assert len(frames) == BATCH
    return {
        "s": time.perf_counter() - started,
        "cpu_s": time.process_time() - worked,
        "mb": _megabytes("VmHWM") - before,
        "samples": float(sum(source.size or 0 for source in sources)),
    }


def _megabytes(field: str) -> float:
    """Of this process's memory: VmRSS is what there is now, VmHWM the most that there was."""
    said = Path("/proc/self/status").read_text()
    return float(next(line.split()[1] for line in said.splitlines() if line.startswith(f"{field}:"))) / 1024


def measured(folder: Path, position: int) -> dict[str, float]:
    """`begin` in a process of its own."""
    command = [sys.executable, __file__, "--begin", str(folder), str(position)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def growth() -> tuple[dict[str, dict[str, float]], bool]:
    """All figures by name, printed as a table, and whether the limits were kept."""
    figures: dict[str, dict[str, float]] = {}
    columns = ("samples", "first batch, s", "of a CPU", "MB", "resume, s", "of a CPU ", "MB ")
    table = Table(*columns, title="above the imports")
    with tempfile.TemporaryDirectory() as temporary:
        for shards in SHARDS:
            folder, samples = Path(temporary) / str(shards), shards * SAMPLES
            write(folder, shards)
            # a step begins at multiples of the batch
            far = (samples - SAMPLES) // BATCH * BATCH
            first, resumed = measured(folder, 0), measured(folder, far)
            figures[f"{samples} samples, first batch"], figures[f"{samples} samples, resume at {far}"] = first, resumed
            row = [f"{f[name]:{form}}" for f in (first, resumed) for name, form in FORMS.items()]
            table.add_row(f"{samples:,}", *row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    kept = all(min(f["s"], f["cpu_s"]) <= SECONDS and f["mb"] <= MEGABYTES for f in figures.values())
    return figures, kept


def main() -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--begin", nargs=2, metavar=("FOLDER", "POSITION"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.begin:
        print(json.dumps(begin(given.begin[0], int(given.begin[1]))))
        return 0
    figures, kept = growth()
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
