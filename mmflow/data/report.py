"""What a program over shards tells people: a progress bar, and tables of what went in and what did not."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mmflow.data.index import Skipped
from mmflow.data.manifest import Manifest

console = Console()


def say(text: str) -> None:
    """A line of any length, as it is."""
    console.print(escape(text), soft_wrap=True, highlight=False)


def progress() -> Progress:
    """A bar with the number of what is done, of all, and the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def report(left_out: Sequence[Skipped], went_in: Counter[str] | None = None) -> None:
    """Tables: what went in by kind, and what was left out, one line per reason, with an example."""
    if went_in:
        table = Table("kind", "files", title="Went in", title_justify="left")
        for kind, number in went_in.most_common():
            table.add_row(kind, str(number))
        console.print(table)
    if not left_out:
        return
    examples = {each.reason: each for each in reversed(left_out)}
    table = Table("because", "files", "for example", title="Left out", title_justify="left")
    for reason, number in Counter(each.reason for each in left_out).most_common():
        example = examples[reason]
        table.add_row(reason, str(number), escape(f"{example.name}: {example.detail}"))
    console.print(table)


def say_totals(folder: object, manifest: Manifest) -> None:
    """How much a folder of shards holds."""
    without = sum(shard.uncaptioned for shard in manifest.shards)
    counts = f"{manifest.pictures} pictures and {manifest.clips} clips in {len(manifest.shards)} shards"
    say(f"{folder}: {counts}" + (f", {without} without a caption" if without else ""))
