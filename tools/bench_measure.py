"""How tools/bench.py measures: two works in turn, in one process, so that a noisy machine meets both alike.

What is read is the ratio of neighbours in time and its median; the interval beside it is the narrowest pair of order
statistics that holds the median with 90 % (of three pairs there is none that narrow: their ends hold it with 75 %).
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from mmflow.planning.peak import Peak, peak_of

Clock = Literal["wall", "cpu"]
COVERAGE = 0.9


@dataclass(frozen=True)
class Setting:
    """How a group is to be measured.

    Attributes:
        device: where both sides run.
        repeats: interleaved pairs.
        clock: `wall`, or `cpu`: the process's own processor time, for a machine whose cores others use as well.
        precisions: fp32, bf16 autocast, or both.
        peaks: of the device, by precision, against which utilisation is stated.
    """

    device: torch.device
    repeats: int
    clock: Clock = "wall"
    precisions: tuple[str, ...] = ("fp32", "bf16")
    peaks: dict[str, Peak] = field(default_factory=dict)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of one call, the device's work included."""
        self.wait()
        clock = time.perf_counter if self.clock == "wall" else time.process_time
        start = clock()
        work()
        self.wait()
        return clock() - start

    def wait(self) -> None:
        """Until the device has done what it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def autocast(self, precision: str) -> torch.autocast:
        """The precision as a context that may be entered again and again."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    def peak(self, precision: str) -> Peak:
        """The device's matrix throughput."""
        if precision not in self.peaks:
            self.peaks[precision] = peak_of(self.device, torch.bfloat16 if precision == "bf16" else torch.float32)
        return self.peaks[precision]


@dataclass(frozen=True)
class Figure:
    """One line of a group's table.

    Attributes:
        name: of the work.
        ours: seconds of each repeat.
        peer: of what it is compared with.
        reach: what the ratio must be.
        kind: `faster`: peer / ours at least `reach`; `within`: ours / peer at most `reach`; `told`: ours / peer, no
            figure to reach.
        flops: matrix products of ours, for the utilisation; 0 where it is not stated.
        peak: products per second of the device.
        note: what else is to be known.
        unit: of `ours` and `peer`, where it is not seconds.
    """

    name: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    reach: float
    kind: Literal["faster", "within", "told"] = "faster"
    flops: float = 0.0
    peak: float = 0.0
    note: str = ""
    unit: str = "s"

    @property
    def ratios(self) -> list[float]:
        """Of each pair, sorted."""
        pairs = zip(self.ours, self.peer, strict=True)
        return sorted(peer / ours if self.kind == "faster" else ours / peer for ours, peer in pairs)

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """Order statistics around the median."""
        ratios = self.ratios
        k = order_statistic(len(ratios))
        return ratios[k - 1], ratios[-k]

    @property
    def reached(self) -> bool:
        """Whether the figure is what it must be."""
        if self.kind == "told":
            return True
        return self.ratio <= self.reach if self.kind == "within" else self.ratio >= self.reach

    @property
    def mfu(self) -> float | None:
        """FLOPs / (median seconds x peak); None where it is not stated."""
        return self.flops / (statistics.median(self.ours) * self.peak) if self.flops and self.peak else None

    @staticmethod
    def of_json(values: dict[str, Any]) -> "Figure":
        """What `as_json` made."""
        own = {f.name: values[f.name] for f in fields(Figure)}
        return Figure(**own | {name: tuple(own[name]) for name in ("ours", "peer")})

    def as_json(self) -> dict[str, Any]:
        """All of it, for the file."""
        low, high = self.interval
        about = {"ratio": self.ratio, "low": low, "high": high, "reached": self.reached, "mfu": self.mfu}
        return asdict(self) | about


def order_statistic(n: int) -> int:
    """The largest k for which the k-th smallest and k-th largest of n hold the median with `COVERAGE`; at least 1."""
    k = 1
    while 2 * (k + 1) <= n and 1 - 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n >= COVERAGE:
        k += 1
    return k


def interleaved(
    setting: Setting, ours: Callable[[], Any], peer: Callable[[], Any], warm_up: int = 1
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of both, in turn; who goes first changes from pair to pair."""
    for _ in range(warm_up):
        ours()
        peer()
    pairs = []
    for n in range(setting.repeats):
        if n % 2:
            theirs = setting.seconds(peer)
            pairs.append((setting.seconds(ours), theirs))
        else:
            pairs.append((setting.seconds(ours), setting.seconds(peer)))
    first, second = zip(*pairs, strict=True)
    return first, second


def show(title: str, figures: Sequence[Figure], console: Console) -> None:
    """The group's table."""
    table = Table(title=title, title_justify="left")
    for column in ("work", "ours: median (min - max)", "peer: median (min - max)", "ratio (interval)", "reach", "MFU"):
        table.add_column(column, justify="left" if column == "work" else "right", overflow="fold")
    for figure in figures:
        low, high = figure.interval
        sign = {"faster": ">= ", "within": "<= ", "told": ""}[figure.kind]
        reach = "" if figure.kind == "told" else f"{sign}{figure.reach:.2f} {'yes' if figure.reached else 'MISSED'}"
        mfu = "" if figure.mfu is None else f"{figure.mfu:.0%}"
        ratio = f"{figure.ratio:.2f} ({low:.2f} - {high:.2f})"
        sides = (spread(values, figure.unit) for values in (figure.ours, figure.peer))
        table.add_row(figure.name, *sides, ratio, reach, mfu)
    console.print(table)
    for figure in figures:
        if figure.note:
            console.print(f"  {figure.name}: {figure.note}", highlight=False)


def markdown(figures: Sequence[Figure]) -> str:
    """The same as a table of a document, ratios first."""
    lines = ["| work | ratio (interval) | reach | ours | peer | MFU |", "|---|---|---|---|---|---|"]
    for figure in figures:
        low, high = figure.interval
        sign = {"faster": "≥ ", "within": "≤ ", "told": ""}[figure.kind]
        reach = "" if figure.kind == "told" else f"{sign}{figure.reach:.2f}: {'yes' if figure.reached else '**no**'}"
        ours, peer = (spread(values, figure.unit) for values in (figure.ours, figure.peer))
        mfu = "" if figure.mfu is None else f"{figure.mfu:.0%}"
        ratio = f"{figure.ratio:.2f} ({low:.2f} - {high:.2f})"
        lines.append(f"| {figure.name} | {ratio} | {reach} | {ours} | {peer} | {mfu} |")
    return "\n".join(lines)


def spread(values: Sequence[float], unit: str = "s") -> str:
    """Median, least and most, in a unit that fits."""
    factor, name = (1e3, "ms") if unit == "s" and statistics.median(values) < 1 else (1.0, unit)
    low, middle, high = (x * factor for x in (min(values), statistics.median(values), max(values)))
    digits = 2 if middle < 10 else 0
    return f"{middle:.{digits}f} ({low:.{digits}f} - {high:.{digits}f}) {name}"


def plot(figures: dict[str, Sequence[Figure]], path: Path) -> None:
    """Ratios with their intervals, and a mark where each must be; what is only told stands in the table."""
    from mmflow.report.plot import pyplot

    plt = pyplot()
    rows = [(f"{group}: {figure.name}", figure) for group, found in figures.items() for figure in found]
    rows = [row for row in reversed(rows) if row[1].kind != "told"]
    picture, axes = plt.subplots(figsize=(9, 0.34 * len(rows) + 1.2))
    for y, (_, figure) in enumerate(rows):
        low, high = figure.interval
        color = "#2ca02c" if figure.reached else "#d62728"
        axes.plot([low, high], [y, y], color=color, lw=3, alpha=0.5)
        axes.plot(figure.ratio, y, "o", color=color)
        axes.plot(figure.reach, y, "|", color="black", ms=12)
    axes.axvline(1, color="gray", lw=0.7)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=7)
    axes.set_xlabel("ratio, median and interval; the black mark is the figure to reach")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=110, bbox_inches="tight")  # names may be wider than what a layout leaves them
    plt.close(picture)
