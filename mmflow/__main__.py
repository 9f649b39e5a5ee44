"""`python -m mmflow fit | validate | test | predict`: Lightning's command line over FlowModule and FlowData."""

import logging
import os
import sys
import warnings


def main(args: list[str] | None = None) -> None:
    """Runs one command. Errors in what the user gave end with one message and exit status 1, before any training."""
    from mmflow.cli import MmflowCLI, expand_run

    quieten()
    cli = None
    try:
        cli = MmflowCLI(expand_run(sys.argv[1:] if args is None else args))
        cli.run()
    except (ValueError, OSError) as error:
        # Past the first step an error is no longer about the configuration, and its traceback is worth more.
        if os.environ.get("MMFLOW_TRACEBACK") or (cli is not None and cli.has_begun()):
            raise
        print(f"mmflow: error: {message(error)}\n(MMFLOW_TRACEBACK=1 shows where)", file=sys.stderr)
        raise SystemExit(1) from error


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
