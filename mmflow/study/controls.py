"""What must be equal in all cells of a study: every configuration value that is not on an axis."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

OWN = ("trainer.default_root_dir",)
"""Keys in which cells differ by nature."""
SHOWN = 8


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys to plain values, as they are written on the command line: without `init_args` and `class_path`."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, each in value.items():
        inside = prefix if key in ("init_args", "class_path") else f"{prefix}.{key}" if prefix else str(key)
        flat |= flatten(each, inside)
    return flat


def controls_of(config: str, varied: Iterable[str], judged: Mapping[str, Any]) -> dict[str, Any]:
    """The controls of a cell.

    Args:
        config: the run's resolved configuration, YAML.
        varied: keys on axes; whatever lies below them varies too.
        judged: how cells are sampled and judged, which is controlled as well.
    """
    free = (*varied, *OWN)
    kept = {
        key: value
        for key, value in flatten(yaml.safe_load(config)).items()
        if not any(key == each or key.startswith(f"{each}.") for each in free)
    }
    plain: dict[str, Any] = json.loads(json.dumps(kept | {f"judged.{key}": v for key, v in judged.items()}))
    return plain


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """`key: value of a -> value of b`, for every key in which they differ."""
    missing = "(not set)"
    keys = sorted(a.keys() | b.keys())
    return [f"{k}: {a.get(k, missing)} -> {b.get(k, missing)}" for k in keys if a.get(k, missing) != b.get(k, missing)]


def require_equal(a: Mapping[str, Any], b: Mapping[str, Any], what: str) -> None:
    """Refuses to go on with unequal controls.

    Raises:
        ValueError: with the difference.
    """
    lines = difference(a, b)
    if lines:
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        raise ValueError(f"{what} differ in what a study keeps equal:\n  " + "\n  ".join(lines[:SHOWN] + more))


def fingerprint(controls: Mapping[str, Any]) -> str:
    """Short name of a set of controls."""
    return hashlib.blake2b(json.dumps(dict(controls), sort_keys=True).encode(), digest_size=6).hexdigest()
