"""What W&B has of a run: of every name the last step, over all starts of the run, also those that were killed."""

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

from mmflow.train.wandb_file import last_steps

NAME = "wandb_steps.json"


@final
class Marks:
    """Kept in the run directory as points are logged. What W&B then loses to a kill is found by reading its file.

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / NAME
        self._known: dict[str, Any] | None = None

    def _read(self) -> dict[str, Any]:
        """`now`: the last step of each name; `before`: what `now` was when W&B began its present `file`."""
        if self._known is None:
            found = json.loads(self._path.read_text()) if self._path.is_file() else {}
            # Once it was `now` alone.
            self._known = found if "now" in found else {"now": found, "before": found, "file": ""}
        return self._known

    def of(self, name: str) -> int:
        """The last step of a name; -1 for none."""
        return int(self._read()["now"].get(name, -1))

    def set(self, names: Iterable[str], step: int) -> None:
        """Notes points that were logged."""
        self._read()["now"] |= dict.fromkeys(names, step)
        self._write()

    def begin(self, file: Path) -> None:
        """Notes that W&B writes to another file from now on."""
        known = self._read()
        self._known = {**known, "before": dict(known["now"]), "file": os.path.relpath(file, self._folder)}
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        writing = self._path.with_suffix(".part")
        writing.write_text(json.dumps(self._read()) + "\n")
        os.replace(writing, self._path)

    def lost(self) -> list[dict[str, Any]]:
        """Rows of metrics.csv, some number of which the last start has logged and W&B's file has not; each has its
        `step`. From now on the marks are what the file has. Nothing if the file is gone: it was sent, and cleared away.
        """
        known = self._read()
        file = self._folder / known["file"]
        if not file.is_file():
            return []
        there, before, given = last_steps(file), known["before"], set(known["now"])
        known["now"] = {name: max(before.get(name, -1), there.get(name, -1)) for name in given | set(there)}
        table = self._folder / "metrics.csv"
        if not table.is_file():
            return []
        with table.open(newline="") as rows:
            found = [
                {n: float(v) for n, v in row.items() if v and n in {"step", *given}} for row in csv.DictReader(rows)
            ]
        return [row for row in found if any(row["step"] > self.of(name) for name in row if name != "step")]
