"""Sizes of published frozen networks, for configurations whose weights are not at hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
TEXT = {
    768: ("CLIP-L's text encoder", 123_650_304),
    1280: ("CLIP-bigG's text encoder", 694_659_840),
    4096: ("T5-XXL's encoder", 4_762_310_656),
}
"""Width of a token -> name and parameters of the published network that has it (their config.json)."""
AUTOENCODERS = {
    "16 [1, 8, 8]": ("SD3's autoencoder", 83_819_683),
    "16 [4, 8, 8]": ("Wan 2.1's autoencoder", 126_892_531),
}
"""Channels and stride -> name and parameters."""


@dataclass(frozen=True)
class Network:
    """One frozen network of a configuration.

    Attributes:
        key: where it is named.
        name: the published network that was taken, or what is known of it.
        bytes: of its weights; None where no size is known.
    """

    key: str
    name: str
    bytes: int | None


def frozen_networks(data: Mapping[str, Any]) -> list[Network]:
    """The networks that the `data` section of a configuration names.

    Args:
        data: plain values, as they were parsed.
    """
    found = []
    autoencoder = data["autoencoder"]
    arguments = autoencoder.get("init_args") or {}
    if arguments.get("path"):
        about = f"{arguments.get('channels')} {list(arguments.get('stride') or ())}"
        known = AUTOENCODERS.get(about)
        found.append(_network("data.autoencoder", arguments, known, f"{arguments['path']}, of unknown size"))
    text = data["text_encoder"].get("init_args") or {}
    for part, given in {**text, "": text}.items():
        if isinstance(given, Mapping) and given.get("path"):
            key = "data.text_encoder" + (f".{part}" if part else "")
            found.append(_network(key, given, TEXT.get(given.get("width") or 0), f"{given['path']}, of unknown size"))
    return found


def _network(key: str, given: Mapping[str, Any], known: tuple[str, int] | None, unknown: str) -> Network:
    if known is None:
        return Network(key, unknown, None)
    name, parameters = known
    return Network(key, name, parameters * BYTES[given.get("dtype") or "fp32"])
