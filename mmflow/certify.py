"""A certificate that a configuration resumes right: its own run, killed and gone on with, against one left alone.

Every start is a process group of its own that kills itself (SIGKILL) after a stated optimizer step, and so after
checkpoints that it has to go on from. What is compared are the traces that each leaves (`mmflow.train.trace`): the
samples of every step over all ranks, what was drawn for and read of each, learning rate, loss, weights and their
average. Starts of one layout must agree bit for bit; where ranks sum in another order, numbers agree to a tolerance.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

EVERY = 2
"""Optimizer steps between checkpoints."""
TOLERANCE = 1e-4
"""Relative, of losses and norms between layouts."""


@dataclass(frozen=True)
class Layout:
    """Ranks and loader processes of each."""

    ranks: int
    workers: int

    @staticmethod
    def of(text: str) -> "Layout":
        """`2x1` is two ranks with a worker each.

        Raises:
            ValueError: if it is not of that form.
        """
        ranks, _, workers = text.partition("x")
        if not (ranks.isdigit() and workers.isdigit() and int(ranks)):
            raise ValueError(f"layout {text!r}: give RANKSxWORKERS, such as 1x0 or 2x1")
        return Layout(int(ranks), int(workers))

    def __str__(self) -> str:
        return f"{self.ranks}x{self.workers}"


@dataclass(frozen=True)
class Start:
    """One start of the run.

    Attributes:
        args: of the configuration, as on the command line of `fit`.
        folder: run directory.
        trace: where the trace goes.
        layout: ranks and workers.
        steps: optimizer steps at which the run ends.
        every: optimizer steps between checkpoints.
        kill_after: optimizer step after which it is killed, or None.
        at_edge: begin, at step 0, so that a pass over a source ends about the middle of the run.
    """

    args: tuple[str, ...]
    folder: str
    trace: str
    layout: Layout
    steps: int
    every: int
    kill_after: int | None
    at_edge: bool

    def command_line(self) -> list[str]:
        """Of `fit`."""
        goes_on = ["--ckpt_path", "last"] if (Path(self.folder) / "checkpoints" / "last.ckpt").exists() else []
        devices = ["--trainer.devices", str(self.layout.ranks)]
        return [
            *("fit", *self.args, "--trainer.default_root_dir", self.folder, *goes_on, *devices),
            *("--trainer.max_steps", str(self.steps), "--data.num_workers", str(self.layout.workers)),
            *("--checkpoints.every_n_steps", str(self.every), "--checkpoints.keep", "-1"),
            *("--data.val_samples", "0", "--previews.every_n_steps", "0", "--scores.every_n_steps", "0"),
            *("--wandb.mode", "off", "--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"),
        ]


Launch = Callable[[Start], int]
"""Does a start and returns its exit status; negative for a signal."""


@dataclass(frozen=True)
class Scenario:
    """A run that is killed and gone on with; the step and the layout of each of its starts."""

    name: str
    at_edge: bool
    starts: tuple[tuple[int | None, Layout], ...]


@dataclass
class Verdict:
    """What a scenario showed."""

    name: str
    starts: list[str]
    steps: int = 0
    samples: int = 0
    passes: list[int] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def scenarios(layouts: list[Layout], steps: int, has_passes: bool) -> list[Scenario]:
    """Each run is stopped twice: after an odd step, whose work is lost, since checkpoints are of even ones."""
    first, second = steps // 2 - 1 | 1, steps - 3 | 1
    same = layouts[0]
    made = [Scenario("inside a pass", False, ((first, same), (second, same), (None, same)))]
    if has_passes:
        made.append(Scenario("at the edge of a pass", True, ((first, same), (second, same), (None, same))))
    if others := layouts[1:]:
        odd = (steps - 2) // 2
        if len(others) > odd:
            raise ValueError(f"--steps {steps}: give at least {2 * len(others) + 2} for {len(layouts)} layouts")
        stops = [3 + 2 * (i * odd // len(others)) for i in range(len(others))]
        starts: tuple[tuple[int | None, Layout], ...] = (*zip(stops, [same, *others], strict=False), (None, others[-1]))
        made.append(Scenario("in other layouts", has_passes, starts))
    return made


class Certification:
    """Runs scenarios and compares them.

    Args:
        args: of the configuration.
        folder: where the runs go; emptied.
        launch: does a start.
        steps: optimizer steps of each run.
    """

    def __init__(self, args: list[str], folder: Path, launch: Launch, steps: int = 10) -> None:
        if steps < 8:
            raise ValueError(f"--steps {steps}: at least 8 are needed to be killed twice between checkpoints")
        self.args, self.folder, self.launch, self.steps = tuple(args), folder, launch, steps
        shutil.rmtree(folder, ignore_errors=True)
        self._left_alone: dict[bool, dict[int, dict[str, Any]]] = {}

    def run(self, scenario: Scenario) -> Verdict:
        """Does a scenario, and tells how it differs from a run of the first layout that is left alone."""
        expected = self._reference(scenario.at_edge, scenario.starts[0][1])
        name = scenario.name.replace(" ", "-")
        told = [f"{layout}{f' killed after step {k}' if k else ''}" for k, layout in scenario.starts]
        verdict = Verdict(scenario.name, told)
        begins = 0
        for number, (kill_after, layout) in enumerate(scenario.starts):
            status = self._start(name, number, layout, kill_after, scenario.at_edge)
            if (status == 0) != (kill_after is None):
                raise ValueError(f"{scenario.name}: start {number + 1} ended with status {status}")
            found = read_trace(self.folder / name / f"trace-{number}")
            exact = layout.ranks == scenario.starts[0][1].ranks and all(
                earlier.ranks == layout.ranks for _, earlier in scenario.starts[: number + 1]
            )
            if number and min(found) != begins + 1:
                verdict.differences.append(
                    f"start {number + 1} goes on with step {min(found)}, the last checkpoint was of step {begins}"
                )
            for step, did in sorted(found.items()):
                if step not in expected:
                    verdict.differences.append(f"step {step}: not in the run left alone")
                    continue
                verdict.differences += compare(step, expected[step], did, exact)
                verdict.samples += len(did["samples"])
            verdict.steps += len(found)
            verdict.passes = sorted({*verdict.passes, *(visit for did in found.values() for visit in visits(did))})
            begins = 0 if kill_after is None else kill_after // EVERY * EVERY
        last = max(found)
        if last != self.steps:
            verdict.differences.append(f"the run ended at step {last}, not {self.steps}")
        return verdict

    def clean(self) -> None:
        """Removes the runs."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _reference(self, at_edge: bool, layout: Layout) -> dict[int, dict[str, Any]]:
        if at_edge not in self._left_alone:
            name = "left-alone-at-edge" if at_edge else "left-alone"
            status = self._start(name, 0, layout, None, at_edge)
            if status != 0:
                raise ValueError(f"the run that is left alone ended with status {status}")
            self._left_alone[at_edge] = read_trace(self.folder / name / "trace-0")
        return self._left_alone[at_edge]

    def _start(self, name: str, number: int, layout: Layout, kill_after: int | None, at_edge: bool) -> int:
        folder = self.folder / name
        return self.launch(
            Start(
                args=self.args,
                folder=str(folder / "run"),
                trace=str(folder / f"trace-{number}"),
                layout=layout,
                steps=self.steps,
                every=EVERY,
                kill_after=kill_after,
                at_edge=at_edge,
            )
        )


def read_trace(folder: Path) -> dict[int, dict[str, Any]]:
    """By optimizer step: the samples of all ranks by name and visit, and what was after it.

    Raises:
        ValueError: if there is none, or a step has a sample twice.
    """
    steps: dict[int, dict[str, Any]] = {}
    for path in sorted(folder.glob("rank-*.jsonl")):
        for line in _lines(path):
            step = steps.setdefault(line["step"], {"samples": {}, "after": None})
            if "after" in line:
                step["after"] = line["after"]
            for sample in line.get("samples", ()):
                name = f"{sample['key']} visit {sample.get('visit', '?')}"
                if name in step["samples"]:
                    raise ValueError(f"{path}: step {line['step']} has {name} twice")
                step["samples"][name] = sample
    if not steps:
        raise ValueError(f"{folder}: the run left no trace")
    return steps


def visits(step: dict[str, Any]) -> set[int]:
    """Of the samples of a step."""
    return {sample["visit"] for sample in step["samples"].values() if "visit" in sample}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text().splitlines():
        yield json.loads(text)


def compare(step: int, expected: dict[str, Any], found: dict[str, Any], exact: bool) -> list[str]:
    """How a step differs from that of the run left alone; numbers to a tolerance unless `exact`."""
    differences = []
    there, here = expected["samples"], found["samples"]
    missing, more = there.keys() - here.keys(), here.keys() - there.keys()
    if missing or more:
        some = ", ".join(sorted(missing)[:2] + sorted(more)[:2])
        differences.append(f"step {step}: {len(missing)} samples are missing and {len(more)} are others ({some})")
    for name in sorted(there.keys() & here.keys()):
        one, other = there[name], here[name]
        unlike = [what for what in one if one[what] != other.get(what)]
        if unlike:
            differences.append(f"step {step}: {name} differs in {', '.join(unlike)}")
    then, now = expected["after"], found["after"]
    if then is None or now is None:
        return [*differences, f"step {step}: was not ended"] if now is None else differences
    for what in then:
        if what in ("weights", "ema") and not exact:
            continue
        if not (_close(then[what], now[what]) if not exact and what != "lr" else then[what] == now[what]):
            differences.append(f"step {step}: {what} {then[what]} became {now[what]}")
    return differences


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-8)


def report(verdicts: list[Verdict], args: list[str], layouts: list[Layout]) -> dict[str, Any]:
    """The certificate, in plain values."""
    return {
        "certified": not any(verdict.differences for verdict in verdicts),
        "arguments": args,
        "layouts": [str(layout) for layout in layouts],
        "compared": "keys, visits, captions, dropped captions, t, frames (crop, first frame, pixels), noise, "
        "learning rate, loss, weights, averaged weights",
        "tolerance_between_layouts": TOLERANCE,
        "scenarios": [asdict(verdict) for verdict in verdicts],
    }
