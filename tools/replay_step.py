"""Repeat one optimizer step of a run and find the sample that spoiled it.

    python tools/replay_step.py RUN STEP [KEY=VALUE of mmflow's configuration ...]

STEP is the number in metrics.csv, in `faults/step-*.json` and in what the run said. The run goes on, in a temporary
folder and in one process, from its last checkpoint at or before the step, whose noise, t and samples are the same by
construction. Then every sample of the step is taken alone: which give no numbers, and whose gradients are largest.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmflow.__main__ import quieten
from mmflow.train.guard import Guard
from mmflow.train.replay import Catch, DoneError, Seen, look_at
from mmflow.train.saved import complete

SHOWN = 8
QUIET = (
    *("--wandb.mode", "off", "--previews.every_n_steps", "0", "--scores.quick.prompts", "0"),
    *("--scores.every_n_steps", "0", "--checkpoints.every_n_steps", "1000000000"),
    *("--trainer.devices", "1", "--trainer.num_nodes", "1", "--model.parallel.shard", "false"),
    *("--model.parallel.replicas", "1", "--trainer.val_check_interval", "1000000000"),
    *("--trainer.enable_progress_bar", "false", "--watchdog.step_timeout", "0"),
)


def start_of(run: Path, step: int) -> Path | None:
    """The run's last whole checkpoint that the step comes after; None for its beginning."""
    found = {int(path.stem.split("-")[1]): path for path in complete(run / "checkpoints")}
    before = [number for number in found if number <= step]
    return found[max(before)] if before else None


def replay(run: Path, step: int, more: Sequence[str]) -> tuple[list[Seen], float]:
    """The samples of a step, the worst first, and the norm of the whole step's gradients.

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
        options = [part for each in more for part in (f"--{each.split('=', 1)[0]}", each.split("=", 1)[1])]
        print(f"{run}: from {'its beginning' if begin is None else begin.name} to step {step}")
        cli = MmflowCLI(["fit", "--config", str(run / "config.yaml"), *QUIET, *given, *options])
        catch = Catch(step)
        # Before the guard, which takes away gradients that are no numbers, and behind what the run's own callbacks do.
        guard = next(i for i, callback in enumerate(cli.trainer.callbacks) if isinstance(callback, Guard))
        cli.trainer.callbacks.insert(guard, catch)
        try:
            cli.run()
        except DoneError:
            return look_at(cli.model, catch.batches), catch.norm
    raise ValueError(f"{run} has no step {step}: its data ends before it")


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="tools/replay_step.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("step", type=int, metavar="STEP", help="optimizer steps before it")
    parser.add_argument("more", nargs="*", metavar="KEY=VALUE", help="of the configuration: model.precision=fp32")
    given = parser.parse_args(arguments)
    if wrong := [each for each in given.more if "=" not in each]:
        parser.error(f"KEY=VALUE is needed, got {wrong[0]}")
    quieten()
    try:
        seen, norm = replay(given.run, given.step, given.more)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    bad = [each for each in seen if not each.is_number()]
    print(f"step {given.step}: gradient norm {norm:.4g}, {len(seen)} samples, {len(bad)} of which give no numbers")
    for each in seen[: max(SHOWN, len(bad))]:
        mark = " " if each.is_number() else "!"
        name = "/".join(map(str, each.key))
        print(f"{mark} {name}  visit {each.visit}  t {each.t:.4f}  loss {each.loss:.4g}  norm {each.gradient_norm:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
