"""How long a user waits: group `startup` of tools/bench.py.

`python -m mmflow --help`, and `fit` on the quickstart until its first optimizer step is done, each in a fresh process
and in turn with one that only does `import lightning.pytorch.cli`, which any LightningCLI program has to. At the first
step the run says so (bench_mark), time is taken, and the run is ended. The quickstart compiles its blocks where it can,
and its first step waits for that: it is measured without, and with what the compiler has kept from an earlier start.
The very first start, which fills that cache, is told in a note.
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_mark import MARK
from bench_measure import Figure, Setting

ROOT = Path(__file__).parent.parent
HELP, FIRST_STEP = 1.2, 4.0
"""Times the bare import; seconds beside it."""
IMPORT = [sys.executable, "-c", "import lightning.pytorch.cli"]


def startup(setting: Setting) -> list[Figure]:
    """The figures. The first step's ratio is stated against the import and four seconds."""
    rows = []
    seconds(setting, IMPORT)  # the files are in memory from here on
    with tempfile.TemporaryDirectory() as cache:
        compiler = {"TORCHINDUCTOR_CACHE_DIR": cache}
        very_first = first_step(setting, "auto", compiler)
        for _ in range(setting.repeats):
            bare = seconds(setting, IMPORT)
            helped = seconds(setting, [sys.executable, "-m", "mmflow", "--help"])
            rows.append((bare, helped, first_step(setting, "false"), first_step(setting, "auto", compiler)))
    bare, helped, plain, compiled = (tuple(column) for column in zip(*rows, strict=True))
    allowed = tuple(x + FIRST_STEP for x in bare)
    note = f"{very_first:.1f} s where the compiler has kept nothing yet"
    return [
        Figure("--help over importing Lightning's CLI", helped, bare, HELP, "within"),
        Figure(f"fit's first step over the import and {FIRST_STEP:.0f} s, not compiled", plain, allowed, 1.0, "within"),
        Figure("the same, compiled, from the compiler's cache", compiled, allowed, 1.0, "within", note=note),
    ]


def first_step(setting: Setting, compiled: str, compiler: dict[str, str] | None = None) -> float:
    """From the start of the quickstart's process to the end of its first optimizer step.

    Args:
        setting: whose clock is read.
        compiled: `model.parallel.compile`.
        compiler: its environment.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mmflow", "fit", "--config", str(ROOT / "configs" / "quickstart.yaml")]
        command += ["--trainer.default_root_dir", folder, "--model.parallel.compile", compiled]
        command += ["--trainer.callbacks+=bench_mark.FirstStep"]
        return until_marked(setting, command, environment() | (compiler or {}))


def until_marked(setting: Setting, command: list[str], given: dict[str, str]) -> float:
    """Of a process and its children until it prints the mark; it is ended then.

    Raises:
        RuntimeError: if it ends of its own accord, with all that it said.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=given,
        cwd=ROOT,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            if MARK in line:
                wall = time.perf_counter() - start
                return wall if setting.clock == "wall" else processor_seconds(process.pid)
            said.append(line)
        raise RuntimeError(f"{' '.join(command)} ended before its first step\n{''.join(said)[-4000:]}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def processor_seconds(pid: int) -> float:
    """Of a process and all that it has started, those that have ended included; from Linux's /proc."""
    parents, used = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # has ended meanwhile
            continue
        number = int(stat.parent.name)
        parents[number] = int(fields[1])
        used[number] = sum(map(int, fields[11:15]))  # user and system time, its own and that of its ended children
    total, family = 0, {pid}
    while family:
        total += sum(used.get(number, 0) for number in family)
        family = {number for number, parent in parents.items() if parent in family}
    return total / os.sysconf("SC_CLK_TCK")


def environment() -> dict[str, str]:
    """Ours, in which the package and the files beside this one are found."""
    return os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tools")))}


def seconds(setting: Setting, command: list[str]) -> float:
    """Of a process and its children from its start to its end, wall or processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(), cwd=ROOT)
    wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall if setting.clock == "wall" else used
