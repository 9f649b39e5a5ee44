"""Scoring a store: kept, shared over ranks, pictures apart from clips, and what is held out of training left out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmflow.metrics.distance import frechet_distance, kernel_distance
from mmflow.metrics.features import Floats, Pictures
from mmflow.metrics.prompt_set import Asked, PromptSet, prompt_set
from mmflow.metrics.proxy import AbstractProxy, SetDistance
from mmflow.metrics.random_features import RandomFeatures
from mmflow.metrics.scoring import Reference, Share, distance_of_store, score_store
from mmflow.metrics.store import Identity, Store

RNG = np.random.default_rng(0)


class Brightness(AbstractProxy):
    """The mean of a picture, and the length of its prompt."""

    def __init__(self, version: int = 1) -> None:
        self.version, self.calls = version, 0

    name = "brightness"

    def identity(self) -> dict[str, Any]:
        return {"version": self.version}

    def absent(self) -> None:
        return None

    def to(self, device: str) -> None: ...

    def of_pictures(self, pictures: Pictures, prompts: Sequence[str]) -> Floats:
        self.calls += 1
        return pictures.mean((1, 2, 3)) + np.array([float(len(prompt)) for prompt in prompts])


def prompts() -> PromptSet:
    words = [(f"prompt {n % 7}", {"clip": n % 4 == 3}) for n in range(60)]
    found = prompt_set("some", words, lambda metadata: (5 if metadata["clip"] else 1, 8, 8))
    return PromptSet(
        "some", tuple(Asked(a.request, {"held_out": "x"} if n > 50 else {}) for n, a in enumerate(found.asked))
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    asked = prompts()
    identity = Identity({"step": 1, "weights": "raw"}, {"name": "some", "digest": asked.digest()}, {})
    store = Store.create(tmp_path_factory.mktemp("store"), identity, asked)
    for index, each in enumerate(asked.asked):
        store.write(index, RNG.integers(0, 256, (each.request.frames, 8, 8, 3), dtype=np.uint8))
    return store


def test_scores_are_means_of_pictures_and_of_clips_and_are_kept(store: Store) -> None:
    proxy = Brightness()
    found = score_store(store, proxy, Share())
    counted = [i for i in range(51)]
    stills = [store.read(i).mean() + 8 for i in counted if store.asked[i].request.frames == 1]
    clips = [store.read(i)[[0, 1, 3, 4]].mean() + 8 for i in counted if store.asked[i].request.frames > 1]
    assert found["brightness"]["value"] == pytest.approx(np.mean(stills)) and found["brightness"]["n"] == len(stills)
    assert found["brightness/clips"]["value"] == pytest.approx(np.mean(clips))
    calls = proxy.calls
    assert score_store(store, proxy, Share()) == found and proxy.calls == calls
    kept = store.scores("brightness", proxy.identity())
    assert kept is not None and kept["values"][55] is None and kept["values"][0] == pytest.approx(stills[0])
    score_store(store, replaced := Brightness(version=2), Share())
    assert replaced.calls  # another judge is asked anew


def test_two_ranks_say_what_one_says(store: Store) -> None:
    whole = score_store(store, Brightness(3), Share())
    rows: dict[int, list] = {}

    def run(rank: int) -> dict:
        def gather(own: list) -> list:
            rows[rank] = own
            return [row for each in rows.values() for row in each]

        return score_store(store, Brightness(4), Share(rank, 2, gather))

    with pytest.raises(KeyError):  # alone it lacks the other's
        run(1)
    assert run(0) == whole
    assert len(rows[0]) == 26 and len(rows[1]) == 25


def test_distances_are_of_what_counts_to_the_reference(store: Store) -> None:
    true = [RNG.integers(0, 200, (1, 8, 8, 3), dtype=np.uint8) for _ in range(40)]
    features = RandomFeatures(width=6)
    reference = Reference("forty", lambda: true, lambda: [])
    found = distance_of_store(store, SetDistance(features), reference, Share())
    made = features.of([store.read(i) for i in range(51) if store.asked[i].request.frames == 1])
    name = features.name
    assert found[f"frechet/{name}"]["value"] == pytest.approx(frechet_distance(made, features.of(true)))
    assert found[f"kernel/{name}"]["value"] == pytest.approx(kernel_distance(made, features.of(true)))
    assert set(found) == {f"frechet/{name}", f"kernel/{name}"}  # no true clips, so none of clips
    kernel = found[f"kernel/{name}"]
    assert kernel["low"] < kernel["value"] < kernel["high"] and kernel["n_reference"] == 40

    def fails() -> list:
        raise AssertionError("kept scores need no reference")

    assert distance_of_store(store, SetDistance(features), replace(reference, pictures=fails), Share()) == found


def test_a_store_with_holes_is_not_scored(store: Store, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(store.folder, tmp_path / "copy")
    copy = Store.open(tmp_path / "copy")
    copy.path(3).unlink()
    with pytest.raises(ValueError, match="1 of 60 samples are missing"):
        score_store(copy, Brightness(5), Share())


def test_scores_that_are_not_numbers_are_refused(store: Store) -> None:
    class Broken(Brightness):
        name = "broken"

        def of_pictures(self, pictures: Pictures, prompts: Sequence[str]) -> Floats:
            return np.full(len(pictures), np.nan)

    with pytest.raises(ValueError, match="broken: 1 of 1 scores are not finite"):
        Broken().score([store.read(0)], ["x"])
