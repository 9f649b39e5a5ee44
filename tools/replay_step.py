"""Repeat one optimizer step of a run, find the sample that spoiled it, and keep it out of the run from here on.

    python tools/replay_step.py RUN STEP [--each] [--quarantine FILE] [KEY=VALUE of mmflow's configuration ...]

STEP is the number in metrics.csv, in `faults/step-*.json` and in what the run said. The run goes on, in a temporary
folder and in one process, from its last checkpoint at or before the step, whose noise, t and samples are the same by
construction; where the run has kept what it saw, the two are compared. Then the step is halved again and again, down to
the samples whose gradients are no numbers, or, where all are, that make up at least half of the step's. `--quarantine`
adds their names to a file for `data.exclude`, with which the run goes on without them and all else in its place.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmflow.__main__ import quieten
from mmflow.train.guard import Guard
from mmflow.train.replay import Catch, DoneError, Seen, culprits, each_alone
from mmflow.train.saved import complete

SHOWN = 8
Losses = dict[tuple[str, int], float]
QUIET = (
    *("--wandb.mode", "off", "--previews.every_n_steps", "0", "--scores.quick.prompts", "0"),
    *("--scores.every_n_steps", "0", "--checkpoints.every_n_steps", "1000000000"),
    *("--trainer.devices", "1", "--trainer.num_nodes", "1", "--model.parallel.shard", "false"),
    *("--model.parallel.replicas", "1", "--trainer.val_check_interval", "1000000000"),
    *("--trainer.enable_progress_bar", "false", "--watchdog.step_timeout", "0"),
)


@dataclass(frozen=True)
class Replayed:
    """A step once more.

    Attributes:
        norm: of its gradients.
        losses: of its samples, by name and visit.
        culprits: what spoiled it: single samples, or several that do it only together.
        looks: gradients that finding them took.
        alone: every sample alone; empty if that was not asked for.
    """

    norm: float
    losses: Losses
    culprits: list[Seen]
    looks: int
    alone: list[Seen]


def start_of(run: Path, step: int) -> Path | None:
    """The run's last whole checkpoint that the step comes after; None for its beginning."""
    found = {int(path.stem.split("-")[1]): path for path in complete(run / "checkpoints")}
    before = [number for number in found if number <= step]
    return found[max(before)] if before else None


def replay(run: Path, step: int, more: Sequence[str] = (), each: bool = False) -> Replayed:
    """Repeats a step.

    Args:
        run: the run directory.
        step: optimizer steps before it.
        more: KEY=VALUE of the configuration.
        each: look at every sample alone as well.

    Raises:
        ValueError: if there is no such run, or it ends before the step.
    """
    from mmflow.cli import MmflowCLI

    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run} is no run directory: it has no config.yaml")
    begin = start_of(run, step)
    with tempfile.TemporaryDirectory() as place:
        given = ["--trainer.default_root_dir", place, "--trainer.max_steps", str(step + 1)]
        given += [] if begin is None else ["--ckpt_path", str(begin)]
        options = [part for option in more for part in (f"--{option.split('=', 1)[0]}", option.split("=", 1)[1])]
        print(f"{run}: from {'its beginning' if begin is None else begin.name} to step {step}")
        cli = MmflowCLI(["fit", "--config", str(run / "config.yaml"), *QUIET, *given, *options])
        trainer: Any = cli.trainer
        catch = Catch(step)
        # Before the guard, which takes away gradients that are no numbers, and behind what the run's own callbacks do.
        guard = next(i for i, callback in enumerate(trainer.callbacks) if isinstance(callback, Guard))
        trainer.callbacks.insert(guard, catch)
        try:
            cli.run()
        except DoneError:
            alone = each_alone(cli.model, catch.micro_steps) if each else []
            found, looks = culprits(cli.model, catch.micro_steps, catch.norm)
            losses = {(name_of(key), visit): loss for (key, visit), loss in catch.losses.items()}
            return Replayed(catch.norm, losses, found, looks, alone)
    raise ValueError(f"{run} has no step {step}: its data ends before it")


def name_of(key: Sequence[str | int]) -> str:
    """SOURCE/SHARD/KEY, as ledger.json and data.exclude have it."""
    return "/".join(map(str, key))


def recorded(run: Path, step: int) -> Losses:
    """Losses of the step's samples as the run itself saw them; empty if it kept none."""
    found: Losses = {}
    for path in sorted((run / "faults").glob("step-*-rank-*.json")):
        for each in json.loads(path.read_text())["steps"]:
            if each["step"] == step:
                found |= {(name_of(one["key"]), one["visit"]): one["loss"] for one in each["samples"]}
    return found


def compared(now: Losses, then: Losses) -> str:
    """How a repeated step is like the run's own, in words."""
    if not then:
        return "the run has kept no losses of it to compare with"
    if now.keys() != then.keys():
        return f"NOT AS THE RUN SAW IT: {len(now.keys() ^ then.keys())} of its samples are others"
    pairs = [(now[name], then[name]) for name in now]
    if any(math.isfinite(a) != math.isfinite(b) for a, b in pairs):
        return "NOT AS THE RUN SAW IT: other losses are no numbers"
    worst = max((abs(a - b) / max(abs(b), 1e-12) for a, b in pairs if math.isfinite(b)), default=0.0)
    return f"the run's own samples, their losses to within {worst:.1e}"


def quarantine(file: Path, names: Sequence[str], why: str, excluded: Path | None) -> int:
    """Adds names to a file for data.exclude, which begins with what the run excludes already; how many were new."""
    if not file.exists() and excluded is not None:
        file.write_text(excluded.read_text())
    before = file.read_text() if file.exists() else ""
    new = [name for name in dict.fromkeys(names) if name not in before.splitlines()]
    if new:
        break_ = "\n" if before and not before.endswith("\n") else ""
        file.write_text("\n".join([f"{before}{break_}# {why}", *new]) + "\n")
    return len(new)


def table(seen: Sequence[Seen]) -> list[str]:
    """A line per sample; samples that do it only together are told as such."""
    lines = []
    for each in seen:
        mark = " " if each.is_number() else "!"
        if len(each.samples) > 1:
            lines.append(f"{mark} {len(each.samples)} samples together, norm {each.gradient_norm:.4g}:")
        for one in each.samples:
            norm = f"  norm {each.gradient_norm:.4g}" if len(each.samples) == 1 else ""
            lines.append(f"{mark} {name_of(one.key)}  visit {one.visit}  t {one.t:.4f}  loss {one.loss:.4g}{norm}")
    return lines


def report(run: Path, step: int, found: Replayed) -> None:
    """Says what a step was like."""
    print(f"step {step}: gradient norm {found.norm:.4g}, {len(found.losses)} samples")
    print(f"repeated: {compared(found.losses, recorded(run, step))}")
    kind = "have half of its norm" if math.isfinite(found.norm) else "give no numbers"
    number = sum(len(each.samples) for each in found.culprits)
    print(f"{number} of them {kind}, found by {found.looks} gradients" + (":" if number else ""))
    print("\n".join(table(found.culprits)), end="\n" if number else "")
    if found.alone:
        print(f"each alone, the {SHOWN} worst:", *table(found.alone[:SHOWN]), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="tools/replay_step.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("step", type=int, metavar="STEP", help="optimizer steps before it")
    parser.add_argument("more", nargs="*", metavar="KEY=VALUE", help="of the configuration: model.precision=fp32")
    parser.add_argument("--each", action="store_true", help="also look at every sample alone")
    parser.add_argument("--quarantine", type=Path, metavar="FILE", help="add what spoiled it to this file")
    given = parser.parse_args(arguments)
    if wrong := [each for each in given.more if "=" not in each]:
        parser.error(f"KEY=VALUE is needed, got {wrong[0]}")
    quieten()
    try:
        found = replay(given.run, given.step, given.more, given.each)
        report(given.run, given.step, found)
        if given.quarantine is None:
            return 0
        names = [name_of(each.samples[0].key) for each in found.culprits if len(each.samples) == 1]
        if not names:
            raise ValueError(f"no single sample did it: nothing is added to {given.quarantine}")
        why = f"step {given.step} of {given.run}: gradient norm {found.norm:.4g}"
        config = yaml.safe_load((given.run / "config.yaml").read_text())
        excluded = config.get("data", {}).get("exclude")
        number = quarantine(given.quarantine, names, why, None if excluded is None else Path(excluded))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{number} added to {given.quarantine}: go on with --ckpt_path last --data.exclude {given.quarantine}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
