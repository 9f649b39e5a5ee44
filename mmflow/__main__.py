"""`python -m mmflow fit | validate | test | predict`: Lightning's command line over FlowModule and FlowData."""

import logging
import os
import signal
import sys
import time
import traceback
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Literal

BROKEN_OFF = 75
"""Exit status under SLURM of a run that an error ended between its first step and its last: worth starting again."""
PATIENCE = 10.0
"""Seconds that a process waits with an error which the first one has as well, as a rule."""


def main(args: list[str] | None = None) -> None:
    """Runs one command. Errors in what the user gave end with one message and exit status 1, before any training."""
    from mmflow.cli import MmflowCLI, expand_run
    from mmflow.train.preemption import listening

    quieten()
    cli = None
    given = sys.argv[1:] if args is None else args
    try:
        with listening() if given[:1] == ["fit"] else nullcontext():
            cli = MmflowCLI(expand_run(given))
            cli.run()
        if cli.is_done():
            pronounce("done")
    except (ValueError, OSError) as error:
        # Past the first step an error is no longer about the configuration, and its traceback is worth more.
        begun = cli is not None and cli.has_begun()
        if begun:
            break_off()
        if begun or os.environ.get("MMFLOW_TRACEBACK"):
            raise
        pronounce("fatal")
        let_the_first_speak()
        print(f"mmflow: error: {message(error)}\n(MMFLOW_TRACEBACK=1 shows where)", file=sys.stderr)
        raise SystemExit(1) from error
    except RuntimeError as error:
        from mmflow.train.checkpoint import SaveError
        from mmflow.train.guard import NumbersError
        from mmflow.train.preflight import PreflightError

        if not isinstance(error, SaveError | PreflightError | NumbersError):
            if cli is not None and cli.has_begun():
                break_off()
            raise
        pronounce("fatal")
        if not is_first():
            raise SystemExit(1) from error  # all processes have the same to say
        print(f"mmflow: {message(error)}", file=sys.stderr)
        raise SystemExit(1) from error
    except Exception:
        if cli is not None and cli.has_begun():
            break_off()
        raise


def break_off() -> None:
    """Ends a SLURM job's process with the error that is being handled; elsewhere it does nothing."""
    if "SLURM_JOB_ID" in os.environ:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(BROKEN_OFF)  # the other processes may never answer, and an orderly end would wait for them


def is_first() -> bool:
    """Whether this is the first of a run's processes."""
    import torch.distributed as dist

    return not dist.is_initialized() or dist.get_rank() == 0


def pronounce(verdict: Literal["done", "fatal"]) -> None:
    """Tells tools/slurm/train.sbatch, by the file that it has named, that another start would be of no use: the run is
    complete, or would end in the same error.

    Exit statuses do not reach it: once one process has failed, srun kills the others, and tells of them; and a process
    may still break in what Python and its libraries do after the last line of a run.
    """
    path = os.environ.get("MMFLOW_VERDICT")
    if path:
        with suppress(OSError):
            Path(path).write_text(verdict)


def let_the_first_speak() -> None:
    """Waits, on all processes but the first, before an error is said: one message is enough, and what started them ends
    all when the first one ends. Whoever is still there has an error of its own; whoever was told to end while it read
    its configuration, and could not, has not.
    """
    from mmflow.train.preemption import RECEIVED

    rank = next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), "0")
    if rank != "0":
        if signal.SIGTERM in RECEIVED:
            raise SystemExit(1)
        time.sleep(PATIENCE)


def quieten() -> None:
    """Silences what Lightning and torch say of themselves on every start; their warnings about a run remain."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for text in (
        ".*args parameter is intended to run from within Python.*",
        ".*isinstance.treespec, LeafSpec.* is deprecated.*",
        ".*does not have many workers which may be a bottleneck.*",
        ".*was configured so validation will run.*",
        # The place in the data is the plan's own integer, kept by the data module.
        ".*your dataloader is not resumable.*",
        ".*The anonymous setting has no effect.*",
        # Whoever does not use SLURM on a machine that has it knows.
        "The `srun` command is available on your system but is not used.*",
        # Nothing changes a block's output in place.
        "FSDP2-wrapped module .* returned a view tensor.*",
        "torch.distributed is disabled, unavailable or uninitialized, assuming the intent .* in a single process.",
        # Said in other words where the data is described.
        ".*Total length of `list` across ranks is zero.*",
    ):
        warnings.filterwarnings("ignore", message=text)


def message(error: BaseException) -> str:
    """What went wrong, in the words of the error nearest to its cause."""
    text = str(error).strip()
    return text or type(error).__name__


if __name__ == "__main__":
    main()
