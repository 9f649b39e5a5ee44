"""Certify that a configuration resumes right: run it, kill it twice, go on, and compare with a run left alone.

    python tools/certify_resume.py --config C [overrides as for fit] [--steps N] [--layouts 1x0,1x2,2x0] [--out FOLDER]

Compared, step by step: the samples of all ranks, captions, crops and frames, t, noise, learning rate, loss, weights and
their average; inside a pass, at its edge, and with other numbers of ranks and loader workers (RANKSxWORKERS). The
report goes to FOLDER/certificate.json (default: the configuration's run directory). Exit status 1 says that something
differed.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from mmflow.certify import Certification, Layout, Start, report, scenarios

LAYOUTS = "1x0,1x2,2x0"


def launch(start: Start) -> int:
    """In a process group of its own; what it says goes to a file beside its trace."""
    trace = Path(start.trace)
    trace.parent.mkdir(parents=True, exist_ok=True)
    order = trace.with_suffix(".json")
    order.write_text(json.dumps(dataclasses.asdict(start)))
    command = [sys.executable, str(Path(__file__).resolve()), "--start", str(order)]
    with trace.with_suffix(".log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=log, start_new_session=True, check=False)
    if done.returncode > 0:
        print(trace.with_suffix(".log").read_text()[-3000:], file=sys.stderr)
    return done.returncode


def follow(order: Path) -> None:
    """Does one start, in this process."""
    from mmflow.__main__ import quieten
    from mmflow.certified_run import run

    quieten()
    given = json.loads(order.read_text())
    run(Start(**{**given, "args": tuple(given["args"]), "layout": Layout(**given["layout"])}))


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps of each run; at least 8, default 10")
    parser.add_argument("--layouts", default=LAYOUTS, help=f"the first one is that of the run left alone; {LAYOUTS}")
    parser.add_argument("--out", type=Path, help="folder of the certificate and of the runs, which are removed")
    parser.add_argument("--keep", action="store_true", help="keep the runs and their traces")
    given, args = parser.parse_known_args(arguments)
    if given.start is not None:
        follow(given.start)
        return 0
    if not any(arg == "--config" or arg.startswith("--config=") for arg in args):
        parser.error("--config is needed: the configuration to certify")
    from mmflow.certified_run import inspect  # late: torch takes seconds to import

    try:
        layouts = [Layout.of(text) for text in given.layouts.split(",")]
        folder, has_passes = inspect(args)
        out: Path = given.out or folder
        certification = Certification(args, out / "certify", launch, given.steps)
        verdicts = []
        for scenario in scenarios(layouts, given.steps, has_passes):
            verdict = certification.run(scenario)
            verdicts.append(verdict)
            result = "the same" if not verdict.differences else f"{len(verdict.differences)} differences"
            print(f"{verdict.name} ({', then '.join(verdict.starts)}): {verdict.steps} steps, {result}", flush=True)
            for line in verdict.differences[:10]:
                print(f"  {line}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    certificate = report(verdicts, args, layouts)
    (out / "certificate.json").write_text(json.dumps(certificate, indent=1) + "\n")
    print(f"{out / 'certificate.json'}: {'certified' if certificate['certified'] else 'NOT certified'}")
    if not given.keep:
        certification.clean()
    return 0 if certificate["certified"] else 1


if __name__ == "__main__":
    os.environ.setdefault("WANDB_MODE", "offline")
    sys.exit(main())
