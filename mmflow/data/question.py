"""What validation asks: what two runs must have in common for their losses to be answers to the same question."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from mmflow.batch import LEVELS
from mmflow.data.mix import Mix

SPEED_ONLY = ("max_frames",)
"""Settings of an autoencoder that change no latent."""


def question(mix: Mix, seed: int, autoencoder: object) -> dict[str, Any]:
    """In plain values. Samples of shards are told apart by their keys; the text encoder is a part of the answer."""
    framing = {} if mix.train_shards is None else dataclasses.asdict(mix.framing)
    asked = {
        "target": "eps - x0",
        "levels": LEVELS,
        "seed": seed,
        "source": mix.name() if mix.train_shards is None else "shards",
        "framing": framing,
        "latents": latents_of(autoencoder),
    }
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def latents_of(autoencoder: object) -> dict[str, Any]:
    """Whose latents these are. Paths count by their last part, so that weights may lie elsewhere."""
    settings = {
        name: Path(value).name if isinstance(value, str) else value
        for name, value in vars(autoencoder).items()
        if not name.startswith("_") and name not in SPEED_ONLY and isinstance(value, (str, int, float, type(None)))
    }
    return {"class": type(autoencoder).__name__, **settings}
