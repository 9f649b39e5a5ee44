"""Kills a run again and again, at random moments and inside its saves, and looks at what it continues from.

python -m tests.train.kills 50 > docs/kills.md
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mmflow.cli  # noqa: F401 - what is imported here need not be by every process
from mmflow.__main__ import main
from mmflow.train import saved
from mmflow.train.saved import complete, newest
from mmflow.train.storage import load_plain, read_plain
from tests.processes import start
from tests.train.runs import command, losses

STEPS = 400
EVERY = ("--checkpoints.every_n_steps", 2, "--trainer.max_steps", STEPS, "--resume", "auto")
CALLS = ("fsync", "replace", "link", "unlink")
"""What a save does to the disk."""


@dataclass(frozen=True)
class Kill:
    """One of them: where it struck, and what was there before and after."""

    where: str
    before: int
    after: int


def step_of(run: Path) -> int:
    """Optimizer steps of what a run would be continued from; 0 for none."""
    found = newest(run)
    return 0 if found is None else int(read_plain(found)["global_step"])


def die_within_a_save(nth: int) -> None:
    """Kills this process at the nth change that a save makes to the disk, before it is done."""
    left = nth

    def strike(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if "checkpoints" in str(args[0]) or name == "fsync":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(owner, name, call)

    for name in CALLS:
        strike(os, name)
    strike(saved, "sync_folder")
    # In the middle of writing the tensors.
    whole = torch.save

    def torn(content: Any, file: Any, **given: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            whole(content, file, **given)
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        whole(content, file, **given)

    torch.save = torn


def kill_once(run: Path, draw: random.Random, inside: bool) -> Kill:
    """Starts or continues the run, and kills it."""
    before = step_of(run)
    nth, seconds = draw.randint(0, 24), draw.uniform(0.5, 12)

    def work() -> None:
        if inside:
            die_within_a_save(nth)
        main(command(run, *EVERY))

    pid = start(work, run.parent / "output.txt", {"OMP_NUM_THREADS": "1"})
    end = time.monotonic() + (120 if inside else seconds)
    while time.monotonic() < end and not os.waitpid(pid, os.WNOHANG)[0]:
        time.sleep(0.02)
    else:
        if time.monotonic() >= end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    where = f"at change {nth} of the disk in its saves" if inside else f"after {seconds:.1f} s"
    return Kill(where, before, step_of(run))


def kill_repeatedly(run: Path, num: int, seed: int = 0) -> list[Kill]:
    """Every other one within a save."""
    draw = random.Random(seed)
    kills = [kill_once(run, draw, inside=i % 2 == 1) for i in range(num)]
    for kill in kills:
        assert kill.after >= kill.before, f"older than before: {kill}"
    return kills


def compare(run: Path, undisturbed: Path) -> int:
    """Continues the killed run by two more steps, runs the other to the same place, and compares the two bit by bit."""
    end = step_of(run) + 2
    for folder in (run, undisturbed):
        pid = start(
            lambda folder=folder: main(command(folder, *EVERY, "--trainer.max_steps", end)),  # type: ignore[misc]
            folder.parent / "output.txt",
            {"OMP_NUM_THREADS": "1"},
        )
        assert os.waitpid(pid, 0)[1] == 0, (folder.parent / "output.txt").read_text()
    np.testing.assert_array_equal(losses(run), losses(undisturbed))
    assert len(losses(run)) == end
    mine, other = (load_plain(folder / "checkpoints" / "last.ckpt") for folder in (run, undisturbed))
    for name, value in other["state_dict"].items():
        assert torch.equal(mine["state_dict"][name], value), name
    assert complete(run / "checkpoints") and not list((run / "checkpoints").glob(".*.part"))
    return end


def report(kills: Sequence[Kill], end: int, seconds: float) -> str:
    """The kills as a page."""
    rows = [f"| {i} | {k.where} | {k.before} | {k.after} |" for i, k in enumerate(kills, 1)]
    never = "never older than before the start" if all(k.after >= k.before for k in kills) else "OLDER THAN BEFORE"
    return "\n".join(
        [
            f"# {len(kills)} kills",
            "",
            "A run of `tests/tiny.yaml` that saves every second step, ended by SIGKILL again and again: every other",
            "time at a random moment, in between at a random change that one of its saves makes to the disk (fsync,",
            "rename, link, unlink, half of a file written). `python -m tests.train.kills N > docs/kills.md` makes it.",
            "",
            f"After each it was resumable, {never}. It then went on to step {end}; its losses from the first",
            f"step on and its weights are those of an undisturbed run, bit by bit. {seconds:.0f} s in all.",
            "",
            "| | killed | step it started from | step it left |",
            "|---|---|---|---|",
            *rows,
        ]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        done = kill_repeatedly(Path(place) / "run", int(sys.argv[1]))
        last = compare(Path(place) / "run", Path(place) / "whole")
    print(report(done, last, time.monotonic() - began))
