"""T2I-CompBench's categories, each judged in its own way, of a store whose prompts are its CATEGORY_val.txt."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, final

import numpy as np

from mmflow.metrics.benchmark import AbstractBenchmark
from mmflow.metrics.compbench import NEAR_PIXELS, numeracy_score, relation_of, spatial_score
from mmflow.metrics.detector import AbstractDetector
from mmflow.metrics.interval import bootstrap
from mmflow.metrics.prompt_file import COMPBENCH
from mmflow.metrics.proxy import AbstractScorer
from mmflow.metrics.scoring import Share
from mmflow.metrics.store import Store, some

OFFICIAL_SIDE = 512
ATTRIBUTES = ("color", "shape", "texture")
NEEDS = {
    **{category: ("vqa",) for category in ATTRIBUTES},
    "spatial": ("detector",),
    "numeracy": ("detector",),
    "non_spatial": ("clip",),
    "complex": ("vqa", "detector", "clip"),
}
"""Judges of a category; 3d_spatial needs depth, and is had from the official evaluator's results only."""
COMPLEX_KINDS = {
    "action": ("vqa", "clip"),
    "spatial": ("vqa", "detector"),
    "spatialaction": ("vqa", "detector", "clip"),
}


@final
class CompBench(AbstractBenchmark):
    """`compbench/CATEGORY`, each the mean over its pictures, 0..1, with a bootstrap over prompts. There is no total.

    Args:
        vqa: of color, shape, texture and complex: a BlipVqa.
        detector: of spatial, numeracy and complex. The official evaluator's are UniDet's; with others, calibrate.
        clip: of non_spatial and complex: a ClipScore, the official one on openai/clip-vit-base-patch32.
        near: what "near" means: `scaled`, 150 pixels of a 512 pixel side; `official`, 150 pixels of any picture.
    """

    def __init__(
        self,
        vqa: AbstractScorer | None = None,
        detector: AbstractDetector | None = None,
        clip: AbstractScorer | None = None,
        near: Literal["scaled", "official"] = "scaled",
    ) -> None:
        if vqa is None and detector is None and clip is None:
            raise ValueError("CompBench judges nothing without vqa, detector or clip: give at least one")
        self.vqa, self.detector, self.clip, self.near = vqa, detector, clip, near

    @property
    def _judges(self) -> dict[str, Any]:
        named = {"vqa": self.vqa, "detector": self.detector, "clip": self.clip}
        return {name: judge for name, judge in named.items() if judge is not None}

    @property
    def name(self) -> str:
        return "compbench"

    def identity(self) -> dict[str, Any]:
        return {"near": self.near, **{name: judge.identity() for name, judge in self._judges.items()}}

    def absent(self) -> str | None:
        return next((why for judge in self._judges.values() if (why := judge.absent()) is not None), None)

    def to(self, device: str) -> None:
        for judge in self._judges.values():
            judge.to(device)

    def of_store(self, store: Store, share: Share) -> dict[str, dict[str, Any]]:
        kept = store.scores(self.name, self.identity())
        if kept is None:
            store.require_whole()
            places = self._places(store)
            said = share.each(places, lambda part: self._values(store, part))
            values = [said.get(place) for place in range(len(store.asked))]
            if share.rank == 0:
                store.keep_scores(self.name, self.identity(), {"values": values})
        else:
            values = kept["values"]
        return summary(store, values)

    def _places(self, store: Store) -> list[int]:
        """Those of the categories that these judges can judge.

        Raises:
            ValueError: if there is none, or a prompt of `complex` is in no list that says what it holds.
        """
        able = [category for category, needs in NEEDS.items() if set(needs) <= self._judges.keys()]
        places = [i for i, asked in enumerate(store.asked) if asked.metadata.get("category") in able]
        if not places:
            raise ValueError(
                f"{store.folder}: CompBench with {', '.join(self._judges)} judges {', '.join(able)}: the prompts of "
                "CATEGORY_val.txt; there are none among these"
            )
        lost = [i for i in places if store.asked[i].metadata["category"] == "complex" and self._kind(store, i) is None]
        if lost:
            raise ValueError(
                f"complex prompts at places {some(lost)} are in none of complex_val_action.txt, "
                "complex_val_spatial.txt and complex_val_spatialaction.txt: put the three beside complex_val.txt and "
                "make the store anew"
            )
        return places

    @staticmethod
    def _kind(store: Store, place: int) -> str | None:
        kind: str | None = store.asked[place].metadata.get("kind")
        return kind

    def _values(self, store: Store, part: Sequence[int]) -> list[float]:
        return [float(np.mean(self._opinions(store, place))) for place in part]

    def _opinions(self, store: Store, place: int) -> list[float]:
        """What each judge that a prompt's category has says of its picture."""
        asked, frames = store.asked[place], store.read(place)
        prompt, category = asked.request.prompt, asked.metadata["category"]
        needs: Sequence[str] = NEEDS[category]
        if category == "complex":
            needs = COMPLEX_KINDS[str(self._kind(store, place))]
        found = []
        for need in needs:
            if need == "detector":
                assert self.detector is not None
                objects = self.detector.objects([frames[len(frames) // 2]])[0]
                if category == "numeracy":
                    found.append(numeracy_score(prompt, objects))
                elif category == "complex" and relation_of(prompt) is None:
                    found.append(0.0)  # as the official evaluator, which finds no two things in it
                else:
                    found.append(spatial_score(prompt, objects, self._near(asked.request.height, asked.request.width)))
            else:
                found.append(float(self._judges[need].score([frames], [prompt])[0]))
        return found

    def _near(self, height: int, width: int) -> float:
        return NEAR_PIXELS * (min(height, width) / OFFICIAL_SIDE if self.near == "scaled" else 1.0)


def summary(store: Store, values: Sequence[float | None]) -> dict[str, dict[str, Any]]:
    """Mean of each category that has values, by name.

    Args:
        store: of the pictures.
        values: by place; None where none was given.
    """
    scores = {}
    for category in COMPBENCH:
        prompts: dict[str, list[float]] = {}
        for asked, value in zip(store.asked, values, strict=True):
            if asked.metadata.get("category") == category and value is not None:
                prompts.setdefault(asked.request.prompt, []).append(value)
        if prompts:
            scores[f"compbench/{category}"] = asdict(bootstrap({category: list(prompts.values())}))
    return scores
