"""How long a user waits: group `startup` of tools/bench.py.

`python -m mmflow --help`, and `fit` on the quickstart until its first optimizer step is done, each in a fresh process
and in turn with one that only does `import lightning.pytorch.cli`, which any LightningCLI program has to. The
quickstart compiles its blocks where it can, and its first step waits for that: it is measured with it and without.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_measure import Figure, Setting

ROOT = Path(__file__).parent.parent
HELP, FIRST_STEP = 1.2, 4.0
"""Times the bare import; seconds beside it."""
IMPORT = [sys.executable, "-c", "import lightning.pytorch.cli"]


def startup(setting: Setting) -> list[Figure]:
    """Both figures. The first step's ratio is stated against the import and four seconds."""
    rows = []
    seconds(setting, IMPORT)  # the files are in memory from here on
    for _ in range(setting.repeats):
        bare = seconds(setting, IMPORT)
        helped = seconds(setting, [sys.executable, "-m", "mmflow", "--help"])
        rows.append((bare, helped, first_step(setting, "auto"), first_step(setting, "false")))
    bare, helped, compiled, plain = (tuple(column) for column in zip(*rows, strict=True))
    allowed = tuple(x + FIRST_STEP for x in bare)
    return [
        Figure("--help over importing Lightning's CLI", helped, bare, HELP, "within"),
        Figure(f"fit's first step over the import and {FIRST_STEP:.0f} s", compiled, allowed, 1.0, "within"),
        Figure("the same without compiling", plain, allowed, 1.0, "within"),
    ]


def first_step(setting: Setting, compiled: str) -> float:
    """A whole process that trains the quickstart for one step and ends: its end is counted in, too."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mmflow", "fit", "--config", str(ROOT / "configs" / "quickstart.yaml")]
        command += ["--trainer.default_root_dir", folder, "--trainer.max_steps", "1", "--trainer.max_time", "null"]
        command += ["--trainer.limit_val_batches", "0", "--model.parallel.compile", compiled]
        return seconds(setting, command)


def seconds(setting: Setting, command: list[str]) -> float:
    """Of a process and its children, wall or processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall if setting.clock == "wall" else used
