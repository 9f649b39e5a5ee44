"""Proxies of what people would say: a number per sample from the pictures and their prompts, or a distance of sets."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, final

import numpy as np

from mmflow.metrics.distance import frechet_distance, jackknife_error, kernel_distance
from mmflow.metrics.features import AbstractJudge, AbstractMediaFeatures, Floats, Frames, Pictures, each_medium
from mmflow.metrics.interval import Z95, bootstrap
from mmflow.metrics.random_features import RandomFeatures

Score = dict[str, float | int | None]


class AbstractScorer(AbstractJudge):
    """A number per picture or clip, given its prompt; more is better. Numbers of two do not compare."""

    clips_only: bool = False
    """Whether it says nothing of pictures."""

    @abstractmethod
    def score(self, media: Sequence[Frames], prompts: Sequence[str]) -> Floats:
        """One number per picture or clip (T, H, W, 3)."""


class AbstractProxy(AbstractScorer):
    """A frozen network's opinion of a picture given its prompt; a clip's is the mean over four frames."""

    @abstractmethod
    def of_pictures(self, pictures: Pictures, prompts: Sequence[str]) -> Floats:
        """One number for each of N pictures (N, H, W, 3) and its prompt."""

    def score(self, media: Sequence[Frames], prompts: Sequence[str]) -> Floats:
        if len(media) != len(prompts):
            raise ValueError(f"{self.name}: {len(media)} samples and {len(prompts)} prompts")

        scores = each_medium(media, lambda pictures, owners: self.of_pictures(pictures, [prompts[i] for i in owners]))
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise ValueError(f"{self.name}: {len(bad)} of {len(scores)} scores are not finite, the first of {bad[0]}")
        return scores


@final
class SetDistance(AbstractJudge):
    """How far the made pictures, as a set, are from true ones: Frechet and kernel distance (FID and KID on Inception).

    Args:
        features: the network.
    """

    def __init__(self, features: AbstractMediaFeatures = RandomFeatures()) -> None:
        self.features = features

    @property
    def name(self) -> str:
        return f"distance/{self.features.name}"

    def identity(self) -> dict[str, Any]:
        return {"distance": "frechet and kernel, float64", **self.features.identity()}

    def absent(self) -> str | None:
        return self.features.absent()

    def to(self, device: str) -> None:
        self.features.to(device)

    def __call__(self, features: Floats, reference: Floats) -> dict[str, Score]:
        """`frechet/NAME` and `kernel/NAME`, each with value, low, high (95 %, of the choice of pictures made; the
        reference is taken as it is), n and n_reference. Intervals need 20 pictures.

        Args:
            features: of the pictures and clips made, as `features.of` gives them.
            reference: of the true ones.

        Raises:
            ValueError: as `frechet_distance`.
        """
        scores: dict[str, Score] = {}
        for kind, distance in (("frechet", frechet_distance), ("kernel", kernel_distance)):
            value = distance(features, reference)
            half = Z95 * jackknife_error(distance, features, reference) if len(features) >= 20 else None
            low, high = (None, None) if half is None else (value - half, value + half)
            scores[f"{kind}/{self.features.name}"] = {
                "value": value,
                "low": low,
                "high": high,
                "n": len(features),
                "n_reference": len(reference),
            }
        return scores


def summary(scores: Floats, prompts: Sequence[str]) -> Score:
    """Mean of a proxy's numbers with its 95 % interval, from a bootstrap over prompts."""
    by_prompt: dict[str, list[float]] = {}
    for prompt, score in zip(prompts, scores.tolist(), strict=True):
        by_prompt.setdefault(prompt, []).append(score)
    found = bootstrap({"all": list(by_prompt.values())})
    return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def win_rate(scores: Floats, baseline: Floats, prompts: Sequence[str]) -> Score:
    """Share of samples that are better than the baseline's of the same prompt and seed, ties half, with its interval.

    Raises:
        ValueError: if the two are not of the same samples.
    """
    if not len(scores) == len(baseline) == len(prompts):
        raise ValueError(f"a win rate needs pairs: {len(scores)} scores, {len(baseline)} of the baseline")
    return summary((scores > baseline) + 0.5 * (scores == baseline), prompts)
