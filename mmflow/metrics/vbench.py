"""VBench's aggregation of its 16 dimensions (Vchitect/VBench, Apache-2.0), and two that are computed here."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import numpy as np

from mmflow.metrics.features import AbstractFeatures, Floats, Frames
from mmflow.metrics.motion import steadiness
from mmflow.metrics.proxy import AbstractScorer

QUALITY = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
SEMANTIC = (
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "appearance_style",
    "temporal_style",
    "overall_consistency",
)
DIMENSIONS = (*QUALITY, *SEMANTIC)
RANGES = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "scene": (0.0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364),
    "overall_consistency": (0.0, 0.364),
}
"""What a dimension's values are normalised by; 0 and 1 for the others."""
WEIGHTS = {"dynamic_degree": 0.5}
"""1 for the others."""
QUALITY_WEIGHT = 4.0


def aggregate(values: Mapping[str, float]) -> dict[str, float]:
    """`quality`, `semantic` and `total` = (4 quality + semantic) / 5, 0..1; those that all their dimensions are there
    for.

    Args:
        values: of the dimensions, 0..1 each, not normalised.

    Raises:
        ValueError: if a dimension is unknown, or a value leaves 0..1.
    """
    unknown = [name for name in values if name not in DIMENSIONS]
    if unknown:
        raise ValueError(f"VBench has no dimension {', '.join(unknown)}; it has {', '.join(DIMENSIONS)}")
    wild = {name: value for name, value in values.items() if not 0 <= value <= 1}
    if wild:
        raise ValueError(
            f"VBench's dimensions lie in 0..1, got {wild}: percentages must be divided by 100, and versions of its "
            "package that print hundreds for overall_consistency are known to be wrong"
        )
    found = {}
    for name, dimensions in (("quality", QUALITY), ("semantic", SEMANTIC)):
        if all(each in values for each in dimensions):
            weights = {each: WEIGHTS.get(each, 1.0) for each in dimensions}
            found[name] = sum(w * normalised(each, values[each]) for each, w in weights.items()) / sum(weights.values())
    if len(found) == 2:
        found["total"] = (QUALITY_WEIGHT * found["quality"] + found["semantic"]) / (QUALITY_WEIGHT + 1)
    return found


def normalised(dimension: str, value: float) -> float:
    """(value - least) / (most - least) of a dimension."""
    low, high = RANGES.get(dimension, (0.0, 1.0))
    return (value - low) / (high - low)


@final
class TemporalFlicker(AbstractScorer):
    """VBench's temporal_flickering: (255 - mean absolute change between frames) / 255. Give it static prompts only, as
    VBench filters its clips: on others it rewards stillness.
    """

    clips_only = True

    @property
    def name(self) -> str:
        return "vbench/temporal_flickering"

    def identity(self) -> dict[str, Any]:
        return {"score": "(255 - mean absolute change) / 255, clips as given"}

    def absent(self) -> None:
        """It is a formula."""
        return None

    def to(self, device: str) -> None:
        """Stays on the host."""

    def score(self, media: Sequence[Frames], prompts: Sequence[str]) -> Floats:
        return np.array([steadiness(frames) for frames in media])


@final
class Consistency(AbstractScorer):
    """VBench's subject_consistency and background_consistency: how alike a clip's frames are to the one before and to
    the first one, by the cosine of their features, none below 0.

    Args:
        features: the official ones are facebook/dino-vitb16 for the subject, through TransformersFeatures, and CLIP
            ViT-B/32 for the background.
        of: which dimension it is.
    """

    clips_only = True

    def __init__(self, features: AbstractFeatures, of: Literal["subject", "background"] = "subject") -> None:
        self.features, self.of = features, of

    @property
    def name(self) -> str:
        return f"vbench/{self.of}_consistency/{self.features.name}"

    def identity(self) -> dict[str, Any]:
        return {"score": "mean cosine to the frame before and to the first", **self.features.identity()}

    def absent(self) -> str | None:
        return self.features.absent()

    def to(self, device: str) -> None:
        self.features.to(device)

    def score(self, media: Sequence[Frames], prompts: Sequence[str]) -> Floats:
        return np.array([consistency(self.features(frames)) for frames in media])


def consistency(features: Floats) -> float:
    """Of frames' features (T, D): mean over the frames but the first of (cos to the one before + cos to the first) / 2.

    Raises:
        ValueError: if there are fewer than two frames.
    """
    if len(features) < 2:
        raise ValueError(f"consistency needs at least 2 frames, got {len(features)}")
    x = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    before = np.maximum((x[1:] * x[:-1]).sum(1), 0.0)
    first = np.maximum((x[1:] * x[:1]).sum(1), 0.0)
    return float((before + first).mean() / 2)
