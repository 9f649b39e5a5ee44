"""Cells in processes of their own: N at a time on this machine, or as a job array under SLURM."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmflow.study.plan import Cell, Study

POLL = 0.2
TAIL = 6


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: 0 well, `folder.BUSY` elsewhere, `folder.STOPPED` half done, anything else badly; `tail` is the
    end of its log.
    """

    cell: Cell
    status: int
    seconds: float
    tail: str


def command(config: Path, cell: Cell) -> list[str]:
    """The command of one cell."""
    return [sys.executable, "-m", "mmflow.study.cell", str(config), cell.name]


def environment(processes: int) -> dict[str, str]:
    """This process's, with a share of the threads."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}


@contextmanager
def _terminated_by_an_exception() -> Iterator[None]:
    """Inside, SIGTERM ends this process by `SystemExit`, so that what is to be done at the end is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, _: Any) -> None:
        sys.exit(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@_terminated_by_an_exception()
def run_locally(
    study: Study, config: Path, cells: Sequence[Cell], processes: int, ended: Callable[[Outcome], None]
) -> None:
    """Runs cells, `processes` at a time, each with its log in its folder. Stopped, by SIGTERM as well, it stops those
    it started, which save where they are.

    Args:
        study: of which they are.
        config: its file.
        cells: what to run, in this order.
        processes: at a time.
        ended: told of every cell that ended.
    """
    waiting, running = list(cells), dict[subprocess.Popen, tuple[Cell, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                cell = waiting.pop(0)
                folder = study.folder(cell)
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / "log.txt").open("a") as log:
                    process = subprocess.Popen(
                        command(config, cell), stdout=log, stderr=subprocess.STDOUT, env=environment(processes)
                    )
                running[process] = cell, time.monotonic()
            for process in [each for each in running if each.poll() is not None]:
                cell, started = running.pop(process)
                lines = (study.folder(cell) / "log.txt").read_text(errors="replace").splitlines()
                ended(Outcome(cell, process.returncode, time.monotonic() - started, "\n".join(lines[-TAIL:])))
            time.sleep(POLL)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def write_array(study: Study, config: Path, cells: Sequence[Cell], processes: int, options: Sequence[str]) -> Path:
    """The script of a SLURM job array, one task per cell, `processes` at a time; resubmitting it goes on.

    Args:
        study: of which they are.
        config: its file.
        cells: what to run.
        processes: tasks at a time.
        options: further `#SBATCH` options, such as `--gres=gpu:1`.
    """
    folder = Path(study.out) / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    names = folder / "cells.txt"
    names.write_text("".join(f"{cell.name}\n" for cell in cells))
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=study",
        f"#SBATCH --array=1-{len(cells)}%{processes}",
        f"#SBATCH --output={folder.resolve()}/%A_%a.log",
        "#SBATCH --requeue",
        *(f"#SBATCH {option}" for option in options),
        f'cd "{Path.cwd()}"',
        f'cell=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" "{names.resolve()}")',
        f'exec "{sys.executable}" -m mmflow.study.cell "{config}" "$cell"',
    ]
    script = folder / "array.sh"
    script.write_text("\n".join(lines) + "\n")
    return script


def submit(script: Path) -> str:
    """Hands the script to SLURM; what SLURM says.

    Raises:
        ValueError: if there is no SLURM here, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise ValueError(f"there is no sbatch here: submit {script} where there is, or run without --launcher slurm")
    done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"sbatch refused {script}: {done.stderr.strip()}")
    return done.stdout.strip()
