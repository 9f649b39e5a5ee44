"""Small stores of samples to judge and to export."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmflow.metrics.prompt_set import prompt_set
from mmflow.metrics.store import Identity, Store


def store_of(
    root: Path, prompts: Sequence[tuple[str, Mapping[str, Any]]], images: int = 1, frames: int = 1, side: int = 16
) -> Store:
    """A store of noise."""
    asked = prompt_set("asked", prompts, lambda _: (frames, side, side), images)
    identity = Identity(
        {"step": 1, "weights": "ema", "digest": "d"}, {"name": "asked", "digest": asked.digest()}, {"num_steps": 1}
    )
    store, rng = Store.create(root, identity, asked), np.random.default_rng(0)
    for each in store.asked:
        store.write(each.request.index, rng.integers(0, 256, (frames, side, side, 3), dtype=np.uint8))
    return store
