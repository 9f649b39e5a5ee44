"""Cells of a study one after another in one process, which imports and compiles once.

`python -m mmflow.study.worker STUDY.yaml` reads the name of a cell from each line of its input, runs the cell with all
that it says going to `log.txt` in the cell's folder, and answers with a line: the cell's exit status. It ends with the
first cell that does not end well, for what that left behind is not known; and with its input. `Worker` is the other
side.
"""

import gc
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from mmflow.study.folder import BUSY
from mmflow.study.plan import Cell, Study, read_study

MOST = 16
"""Cells that one process runs, so that what it may gather is let go of."""
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


def environment(processes: int) -> dict[str, str]:
    """This process's, with a share of the threads."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    return {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}


@final
class Worker:
    """A process that runs one cell after another: `mmflow.study.worker`.

    Args:
        config: the study's file.
        processes: how many there are, each with its share of the threads.
    """

    def __init__(self, config: Path, processes: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mmflow.study.worker", str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(processes),
        )
        self.cell: Cell | None = None
        """What it works on."""
        self._begun, self._started, self._status = 0, 0.0, 0

    @property
    def answers(self) -> int:
        """A file descriptor that has something to read when the cell has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    @property
    def goes_on(self) -> bool:
        """Whether it takes another cell."""
        return self._status in (0, BUSY) and self._begun < MOST and not self.is_gone

    def begin(self, cell: Cell) -> None:
        """Gives it a cell."""
        self.cell, self._started, self._begun = cell, time.monotonic(), self._begun + 1
        with suppress(BrokenPipeError):  # it has just ended, as `end` will find
            print(cell.name, file=self._process.stdin, flush=True)

    def end(self, study: Study) -> Outcome:
        """How the cell ended; waits until it has."""
        assert self.cell is not None
        assert self._process.stdout is not None
        answer, cell = self._process.stdout.readline(), self.cell
        self._status = int(answer) if answer else self._process.wait()
        self.cell, log = None, study.folder(cell) / "log.txt"
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        return Outcome(cell, self._status, time.monotonic() - self._started, "\n".join(lines[-TAIL:]))

    def terminate(self) -> None:
        """Stops the cell, which saves where it is."""
        self._process.terminate()

    def close(self) -> None:
        """Waits for the end of the process, which takes no further cell."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def said_in(log: Path) -> Iterator[None]:
    """Inside, what this process and those that it starts print is appended to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    streams = {1: sys.stdout, 2: sys.stderr}
    before = {number: os.dup(number) for number in streams}
    with log.open("a") as file:
        for number in streams:
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for number, stream in streams.items():
            stream.flush()
            os.dup2(before[number], number)
            os.close(before[number])


def main(config: str) -> int:
    """Answers every line; the last answer is the exit status."""
    from mmflow.study.cell import ended

    # What anything else prints, before a cell or between two, is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    study = read_study(config)
    folders = {cell.name: study.folder(cell) for cell in study.cells()}
    for line in sys.stdin:
        name = line.strip()
        with said_in(folders[name] / "log.txt"):
            try:
                status = ended(study, name)
            except Exception:
                traceback.print_exc()
                status = 1
        print(status, file=answers, flush=True)
        if status not in (0, BUSY):
            return status
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
