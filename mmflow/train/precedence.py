"""What a continued run takes from its checkpoint and what from its configuration.

The checkpoint wins for weights, moments, averages and counters; the configuration for everything else, and what differs
is told and kept. What would make the checkpoint's numbers mean something else is refused.
"""

from collections.abc import Iterator
from typing import Any

import yaml

FORMAT = 1
"""Of checkpoints; counted up where an older mmflow could not read them rightly."""

FIXED = (
    "model.backbone",
    "model.objective.path",
    "model.objective.prediction",
    "model.optimizer.class_path",
    "data.autoencoder",
    "data.text_encoder",
)
"""What weights and moments mean."""
FREE = ("model.backbone.init_args.attention",)
"""Of these, what does not."""

Changes = dict[str, tuple[Any, Any]]
"""By key: the value of the checkpoint's configuration, and the present one."""


def flat(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a configuration that is no dictionary."""
    if isinstance(config, dict) and config:
        for name, value in config.items():
            yield from flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, config


def changes(before: str, now: str) -> Changes:
    """What differs between two configurations as YAML."""
    old, new = dict(flat(yaml.safe_load(before))), dict(flat(yaml.safe_load(now)))
    keys = [*new, *(key for key in old if key not in new)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _is_of(key: str, parts: tuple[str, ...]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def check(found: Changes, where: str) -> None:
    """Lets pass what a run may change on its way.

    Raises:
        ValueError: naming what it may not, with both values and the way out.
    """
    refused = {key: pair for key, pair in found.items() if _is_of(key, FIXED) and not _is_of(key, FREE)}
    if not refused:
        return
    lines = [f"{where} was made with another model than the configuration's:"]
    for key, (old, new) in refused.items():
        name, option = key.rsplit(".", 1)[-1], key.replace(".init_args", "").removesuffix(".class_path")
        lines.append(f"  {name} {old} there, {name} {new} here: set --{option} {old}")
    raise ValueError("\n".join([*lines, "Or start a new run from its weights: --model.init_from RUN"]))


def check_format(saved: dict[str, Any], where: str) -> None:
    """Refuses what a later mmflow has saved in a way that this one does not know.

    Raises:
        ValueError: with the version that it takes.
    """
    theirs = saved.get("mmflow", {"format": 0, "version": "0.1.0"})
    if theirs["format"] > FORMAT:
        raise ValueError(
            f"{where} was saved by mmflow {theirs['version']} in format {theirs['format']}; this mmflow reads formats "
            f"up to {FORMAT}: install mmflow-mmdit {theirs['version']} or later"
        )


def told(found: Changes) -> list[str]:
    """The differences, for people."""
    if not found:
        return []
    return ["changed since the checkpoint:", *(f"  {key}: {old} -> {new}" for key, (old, new) in found.items())]
