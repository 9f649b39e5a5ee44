"""Cells in processes of their own: N at a time on this machine, or as a job array under SLURM."""

import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmflow.study.plan import Cell, Study
from mmflow.study.worker import Outcome, Worker

POLL = 0.2


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
    waiting, workers = list(cells), list[Worker]()
    try:
        while waiting or workers:
            idle = [worker for worker in workers if worker.cell is None]
            more = min(len(waiting) - len(idle), processes - len(workers))
            new = [Worker(config, processes) for _ in range(more)]
            workers += new
            for worker in (idle + new)[: len(waiting)]:
                worker.begin(waiting.pop(0))
            answered, _, _ = select.select([worker.answers for worker in workers], [], [], POLL)
            for worker in workers:
                if worker.cell is not None and (worker.answers in answered or worker.is_gone):
                    ended(worker.end(study))
            for worker in [each for each in workers if each.cell is None and not (waiting and each.goes_on)]:
                workers.remove(worker)
                worker.close()
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.close()


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
