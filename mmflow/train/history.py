"""`history.jsonl` of a run: each start of it, with what had changed, and each end."""

import json
import os
import time
from pathlib import Path
from typing import Any

NAME = "history.jsonl"
SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NODELIST")


def append(run: Path, event: str, step: int, **more: Any) -> None:
    """Adds one line, down to the disk."""
    line = {"time": round(time.time(), 3), "event": event, "step": step, **more}
    slurm = {name.removeprefix("SLURM_").lower(): os.environ[name] for name in SLURM if name in os.environ}
    if slurm:
        line["slurm"] = slurm
    with (run / NAME).open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # a stop has cut the last line short
                file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_history(run: Path) -> list[dict[str, Any]]:
    """All lines, the oldest first; one that a stop has cut short is left out."""
    found = []
    if (run / NAME).is_file():
        for line in (run / NAME).read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def came_to_its_end(run: Path) -> bool:
    """Whether the last start that trained ended of its own accord: `end` is written when previews and scores are there,
    and after a `stop`, which leaves them to the next start.
    """
    events = [line["event"] for line in read_history(run)]
    since = max((place for place, event in enumerate(events) if event in ("start", "continue")), default=0)
    return "end" in events[since:] and "stop" not in events[since:]
