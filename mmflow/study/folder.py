"""A cell's folder: where its scores lie, whether it is done, and who works on it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmflow.study.plan import Cell, Setting, Study

BUSY = 75
"""Exit status of a cell that another process works on (EX_TEMPFAIL)."""


STOPPED = 143
"""Exit status of a cell that was stopped from outside before its training was over (128 + SIGTERM)."""


class CellBusyError(Exception):
    """Another process works on this cell."""


class CellStoppedError(Exception):
    """Training was stopped from outside: what there is of it is no whole cell."""


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds the cell for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        CellBusyError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CellBusyError(str(folder)) from error
        yield


def score_file(folder: Path, weights: str, setting: Setting) -> Path:
    """Where the numbers of one kind of weights in one sampling setting lie."""
    return folder / "scores" / f"{score_name(weights, setting)}.json"


def score_name(weights: str, setting: Setting) -> str:
    """Of the numbers of one kind of weights in one sampling setting."""
    return f"{weights}-{setting.solver}-{setting.num_steps}-cfg{setting.guidance_scale:g}"


def curve_weights(folder: Path) -> list[Path]:
    """Averaged weights of every checkpoint of the curve that is not scored yet."""
    return sorted((folder / "curve").glob("step-*.safetensors"))


def is_done(study: Study, cell: Cell) -> bool:
    """Whether nothing is left to do in the cell's folder."""
    folder = study.folder(cell)
    if study.curve:
        scored = any((folder / "curve").glob("step-*.json"))
        if not (folder / "size.json").is_file() or not scored or curve_weights(folder):
            return False
    return all(score_file(folder, weights, s).is_file() for weights in study.weights for s in study.settings)
