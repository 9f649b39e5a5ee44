"""Prompts as names of files, as some benchmarks want them: which cannot be, and why.

Inside, samples are named by their place; only the official layouts of T2I-CompBench and VBench need this.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmflow.metrics.store import some

MOST_BYTES = 255
"""Of a file's name, on all common file systems."""


def check_names(names: Mapping[int, str], prompts: Sequence[str], folder: Path, forbidden: str = "") -> None:
    """Refuses names that a disk cannot hold, or that the official evaluator would read as another prompt.

    Args:
        names: place -> name of the file that holds the prompt of that place.
        prompts: by place.
        folder: where they will lie.
        forbidden: further letters that a prompt must not have.

    Raises:
        ValueError: naming places and prompts.
    """
    complaints = []
    ends = [("/", "is a folder's end"), ("\0", "ends a name"), *((letter, "ends the prompt") for letter in forbidden)]
    for letter, why in ends:
        bad = [place for place in names if letter in prompts[place]]
        if bad:
            complaints.append(f"{letter!r} {why} in a file's name: places {some(bad)}, such as {prompts[bad[0]]!r}")
    long = [place for place, name in names.items() if len(name.encode()) > MOST_BYTES]
    if long:
        complaints.append(f"a file's name has at most {MOST_BYTES} bytes: places {some(long)} have more")
    by_name: dict[str, list[int]] = {}
    folds = folds_case(folder)
    for place, name in names.items():
        by_name.setdefault(name.casefold() if folds else name, []).append(place)
    same = [places for places in by_name.values() if len(places) > 1]
    if same:
        said = " and ".join(repr(prompts[place]) for place in same[0][:2])
        why = "on this disk, which does not tell capitals apart" if folds else "once more"
        complaints.append(f"{said} would have the same name {why}; so would {len(same) - 1} more")
    if complaints:
        raise ValueError(
            f"{folder}: these prompts cannot be names of files, which the official layout asks for:\n  "
            + "\n  ".join(complaints)
        )


def folds_case(folder: Path) -> bool:
    """Whether the disk takes `a` and `A` for one name."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".mmflow-case-probe"
    probe.touch()
    try:
        return probe.with_name(probe.name.upper()).exists()
    finally:
        probe.unlink()
