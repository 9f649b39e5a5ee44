from collections.abc import Iterator

import numpy as np
import pytest

import mmflow.shapes.world


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Items without pixels or places: both are drawn last, so scenes and captions stay what they are, only sooner."""

    def nowhere(rng, scene, frames, size):
        count = len(scene.nouns)
        return np.zeros((count, 1, 2)), np.ones((count, 1))

    monkeypatch.setattr(mmflow.shapes.world, "draw_layout", nowhere)
    monkeypatch.setattr(mmflow.shapes.world, "paint", lambda *_: None)
    monkeypatch.setattr(mmflow.shapes.world, "canvas", lambda frames, size, ground: np.zeros((1, 1, 1, 3), np.uint8))
    yield
