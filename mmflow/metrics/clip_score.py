"""CLIP score, and CLIP's picture features to take distances on (the paper's FID, after Sauer et al. 2021)."""

from collections.abc import Sequence
from typing import Any, final

from mmflow.metrics.clip_network import clip_identity, label, load_clip
from mmflow.metrics.features import AbstractFeatures, Floats, Pictures
from mmflow.metrics.pretrained import absent
from mmflow.metrics.proxy import AbstractProxy


@final
class ClipScore(AbstractProxy):
    """cos(picture, prompt) in CLIP's space, raw: -1..1, as in the paper's Table 2. Many papers print it x 100.

    Args:
        path: a CLIP: a folder as `save_pretrained` writes it, or a repository id. The paper's is
            openai/clip-vit-large-patch14.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return f"clip_score/{label(self.path)}"

    def identity(self) -> dict[str, Any]:
        return {"score": "cosine", **clip_identity(self.path)}

    def absent(self) -> str | None:
        return absent(self.path)

    def to(self, device: str) -> None:
        load_clip(self.path).to(device)

    def of_pictures(self, pictures: Pictures, prompts: Sequence[str]) -> Floats:
        return load_clip(self.path).cosines(pictures, prompts)


@final
class ClipFeatures(AbstractFeatures):
    """CLIP's projected picture features, not normalised.

    Args:
        path: as for `ClipScore`.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return label(self.path)

    def identity(self) -> dict[str, Any]:
        return {"features": "projected, not normalised", **clip_identity(self.path)}

    def absent(self) -> str | None:
        return absent(self.path)

    def to(self, device: str) -> None:
        load_clip(self.path).to(device)

    def __call__(self, pictures: Pictures) -> Floats:
        features: Floats = load_clip(self.path).picture_features(pictures).double().numpy()
        return features
