"""Nothing is opened ahead of its turn: indexes at the start, and a tar when a sample of it is read.

"Its turn" is when a micro-step is handed to a worker: with W workers that is at most 4 W micro-steps before it is
trained on, with none it is then.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from media import make_shards
from test_module import attached, on_shards

PREFETCH = 4
TARS = 36
_log: list[int] = []


def _hook(event: str, arguments: tuple) -> None:
    """Notes every file that is opened, in this process and in what is forked from it."""
    if _log and event == "open" and isinstance(arguments[0], str) and arguments[0].endswith((".tar", ".parquet")):
        os.write(_log[0], f"open {Path(arguments[0]).name}\n".encode())


@contextmanager
def noted(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    if not hasattr(sys, "_mmflow_hooked"):
        sys.addaudithook(_hook)  # stays for good, and does nothing without a log
        sys._mmflow_hooked = True
    _log.append(descriptor)
    try:
        yield descriptor
    finally:
        _log.clear()
        os.close(descriptor)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_tar_is_not_opened_before_its_samples_are_due(tmp_path: Path, workers: int) -> None:
    shards = make_shards(tmp_path / "shards", pictures=[2] * TARS, clips=[0] * TARS)
    with noted(tmp_path / "log") as log:
        data = attached(**on_shards(str(shards)), clip_share=0.0, batch_size=2, num_workers=workers)
        os.write(log, b"set up\n")
        due: dict[str, list[int]] = {}
        for share in range(TARS):
            for item in data._training.order.plan.step(2 * share).items:
                due.setdefault(f"{item.key[1]}.tar", []).append(share)
        loader = iter(data.train_dataloader())
        for _ in range(TARS):
            os.write(log, b"take\n")
            next(loader)
        del loader
    events = (tmp_path / "log").read_text().split("\n")[:-1]
    begun = events.index("set up")
    assert {event.split(".", 1)[1] for event in events[:begun]} == {"index.parquet"}, "no tar at the start"
    taken, opened, ahead = 0, set(), workers * PREFETCH
    for event in events[begun:]:
        taken += event == "take"
        name = event.removeprefix("open ")
        if name in due:
            opened.add(name)
            assert any(share <= taken - 1 + ahead for share in due[name]), f"{name} before its turn"
    assert len(opened) == len(due) == TARS
    first_due = sorted(min(shares) for shares in due.values())
    assert first_due[2] >= 1 and first_due[-1] > 2 * ahead, "or there would be nothing to see"
