"""What became of the samples of a run, for people, `results.json` and the loggers."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.table import Table

USED = ("whole", "cropped", "cut_short")
"""Fates of samples that were trained on: all of the file, without a border of it, or fewer frames as well."""


def account_table(summary: dict[str, Any]) -> Table:
    """One row per source and bucket: how many samples, and of which fate."""
    rows: Sequence[tuple[str, str, str, int]] = summary["fates"]
    lost = sorted({fate for *_, fate, _ in rows} - set(USED))
    table = Table("source", "bucket", "samples", *USED, *lost, title="What became of the samples", title_justify="left")
    for source, bucket in sorted({(source, bucket) for source, bucket, *_ in rows}):
        numbers = {fate: number for s, b, fate, number in rows if (s, b) == (source, bucket)}
        cells = (numbers.get(fate, 0) for fate in (*USED, *lost))
        table.add_row(source, bucket, str(sum(numbers.values())), *(str(n) if n else "" for n in cells))
    return table


def account_lines(summary: dict[str, Any]) -> list[str]:
    """The index beside it, in lines."""
    lines = []
    for name, source in summary.get("sources", {}).items():
        parts = [f"{source['samples']} to train on"]
        parts += [f"{source[each]} {word}" for each, word in (("held_out", "held out"), ("not_asked", "not asked for"))]
        parts.append(f"{source['not_reached']} not reached")
        shown = ", ".join(part for part in parts if not part.startswith("0 "))
        lines.append(f"{name}: {source['indexed']} in the index: {shown}; {source['visits']} visits")
    if summary.get("left_out"):
        reasons = ", ".join(f"{number} {reason}" for reason, number in summary["left_out"].items())
        lines.append(f"members of tars that are no samples: {reasons}")
    if summary.get("balanced") is False:
        lines.append("the visits do not sum to the place in the plan, unless the run began under an older version")
    return lines


def close_books(trainer: pl.Trainer, summary: dict[str, Any]) -> None:
    """Tells a run's books, at its end."""
    console = Console(width=None if Console().is_terminal else 140)
    console.print(account_table(summary))
    for line in account_lines(summary):
        console.print(line, soft_wrap=True, highlight=False)
    path = Path(trainer.default_root_dir) / "results.json"
    before = json.loads(path.read_text()) if path.is_file() else {"step": trainer.global_step}
    content = {**before, "data": {name: summary[name] for name in summary if name != "examples"}}
    writing = path.with_suffix(".part")
    writing.write_text(json.dumps(content, indent=1) + "\n")
    writing.replace(path)
    numbers: Counter[str] = Counter()
    for *_, fate, number in summary["fates"]:
        numbers[f"data/{fate}"] += number
    for logger in trainer.loggers:
        logger.log_metrics({name: float(n) for name, n in numbers.items()}, step=trainer.global_step)
