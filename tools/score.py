"""Judge stores of samples that were made before, and put the results into one table; and what else is reported.

    python tools/score.py runs/a/store/step-* --config configs/quickstart.yaml
    python tools/score.py runs/*/store/step-* --config CONFIG --json table.json
    python tools/score.py export STORE OUT --as geneval            compbench, vbench, hpd: for the official evaluators
    python tools/score.py read geneval OUT/results.jsonl           compbench, vbench: what these have written
    python tools/score.py autoencoder --config CONFIG              what encoding and decoding loses
    python tools/score.py efficiency RUN... --steps 5 10 20 50     the paper's Table 6
    python tools/score.py results RUN... --out docs/results.md     a page of tables in the paper's formats

The judges, and the true pictures that distances compare with, are those of the configuration's `proxies` and `data`.
What a judge said of a store is kept in it and not asked again. Stores of different prompts or sampling settings, and
scores of different judges, are refused: only the checkpoint may differ.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmflow.__main__ import quieten
from mmflow.metrics.scoring import Share
from mmflow.metrics.store import Store, require_comparable
from mmflow.train.proxies import Proxies, judged

Scores = dict[str, dict[str, Any]]
VERBS = ("export", "read", "autoencoder", "efficiency", "results")


def score(stores: Sequence[Store], proxies: Proxies, data: Any, device: str) -> tuple[list[Scores], dict[str, str]]:
    """The scores of every store, and the judges that are absent with their reasons.

    Raises:
        ValueError: if stores do not compare, or one is not whole.
    """
    names = [store.folder.name for store in stores]
    for store in stores:
        store.require_whole()
    require_comparable([{"judge": {}, "samples": vars(store.identity)} for store in stores], names)
    present, absent = proxies.present()
    found: list[Scores] = [{} for _ in stores]
    for judge in present:
        judge.to(device)
        for store, scores in zip(stores, found, strict=True):
            scores |= judged(store, judge, proxies.reference(data, store), Share())
    return found, absent


def columns(stores: Sequence[Store]) -> list[str]:
    """A short name for each: its step and kind of weights, and its run where there are several."""
    runs = {store.folder.parent.parent.name for store in stores}
    short = [f"{s.identity.checkpoint['step']} {s.identity.checkpoint['weights']}" for s in stores]
    return [
        f"{store.folder.parent.parent.name} {name}" if len(runs) > 1 else name
        for store, name in zip(stores, short, strict=True)
    ]


def table(stores: Sequence[Store], found: Sequence[Scores]) -> Table:
    """One row per score, one column per store."""
    grid = Table(
        title=f"{stores[0].identity.prompts['name']}, {len(stores[0].asked)} samples each", title_justify="left"
    )
    grid.add_column("score")
    for name in columns(stores):
        grid.add_column(name, justify="right")
    for name in dict.fromkeys(name for scores in found for name in scores):
        grid.add_row(name, *(_cell(scores.get(name)) for scores in found))
    return grid


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "-"
    half = "" if score.get("low") is None else f" +- {(score['high'] - score['low']) / 2:.2g}"
    return f"{score['value']:.4g}{half}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in VERBS:
        from mmflow.evaluation.command import run

        return run(given)
    return judge_stores(given)


def judge_stores(arguments: Sequence[str]) -> int:
    """Judges stores with a configuration's judges."""
    parser = argparse.ArgumentParser(
        prog="tools/score.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stores", type=Path, nargs="+", metavar="STORE", help="a folder below RUN/store")
    parser.add_argument("--config", action="append", required=True, help="with `proxies`; a later one overrides")
    parser.add_argument("--device", default="cpu", help="where judges work")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    given = parser.parse_args(arguments)
    quieten()
    try:
        from mmflow.cli import MmflowCLI

        stores = [Store.open(folder) for folder in given.stores]
        configs = [word for config in given.config for word in ("--config", config)]
        cli = MmflowCLI(["predict", *configs], for_use=False)
        (proxies,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, Proxies))  # type: ignore[attr-defined]
        found, absent = score(stores, proxies, cli.datamodule, given.device)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, reason in absent.items():
        print(f"{name}: left out, {reason}")
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table(stores, found))
    if given.json is not None:
        rows = [{"store": str(s.folder), **vars(s.identity), "scores": x} for s, x in zip(stores, found, strict=True)]
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
