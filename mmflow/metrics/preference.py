"""HPSv2, HPSv2.1 and PickScore: CLIPs that were trained on what people preferred.

Compare within the same prompts only, and side by side: all of them saturate and reward style.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, final

from mmflow.encoders.hub import require
from mmflow.metrics.clip_network import ClipNetwork, clip_identity, label, load_clip, load_tokenizer
from mmflow.metrics.features import Floats, Pictures
from mmflow.metrics.open_clip import OpenClipSize, clip_model
from mmflow.metrics.picture_input import PictureInput
from mmflow.metrics.pretrained import absent, digest, read_weights
from mmflow.metrics.proxy import AbstractProxy


@final
class Hps(AbstractProxy):
    """Human Preference Score v2 (Wu et al. 2023): cos(picture, prompt) of a fine-tuned ViT-H/14. The benchmark prints
    it x 100: v2 about 23-29, v2.1 about 14-33. Scores of the two versions do not compare.

    Args:
        path: HPS_v2_compressed.pt or HPS_v2.1_compressed.pt of the repository xswu/HPSv2, or their tensors as
            .safetensors.
        tokenizer: a folder or repository id with CLIP's tokenizer.
        version: which of the two `path` is; files do not say it themselves.
        size: of the network; the published ones have the default.
    """

    def __init__(
        self,
        path: str,
        tokenizer: str = "openai/clip-vit-large-patch14",
        version: Literal["2.0", "2.1"] = "2.1",
        size: OpenClipSize = OpenClipSize(),
    ) -> None:
        self.path, self.tokenizer, self.version, self.size = path, tokenizer, version, size

    @property
    def name(self) -> str:
        return f"hps_v{self.version}"

    def identity(self) -> dict[str, Any]:
        return {
            "score": "cosine",
            "network": f"HPS v{self.version}, {label(self.path)}",
            "weights": digest(self.path),
            "tokenizer": label(self.tokenizer),
            "pictures": PictureInput(self.size.image_size).name(),
        }

    def absent(self) -> str | None:
        return absent(self.path, self.tokenizer)

    def to(self, device: str) -> None:
        self._network().to(device)

    def _network(self) -> ClipNetwork:
        return _load_open_clip(self.path, self.tokenizer, self.size)

    def of_pictures(self, pictures: Pictures, prompts: Sequence[str]) -> Floats:
        return self._network().cosines(pictures, prompts)


@lru_cache(maxsize=2)
def _load_open_clip(path: str, tokenizer: str, size: OpenClipSize) -> ClipNetwork:
    require("transformers")
    words = load_tokenizer(tokenizer)
    if len(words) != size.vocab_size:
        raise ValueError(f"{tokenizer}: its vocabulary has {len(words)} tokens, the network {size.vocab_size}")
    model = clip_model(read_weights(path), size, words.eos_token_id, path)
    return ClipNetwork(model, words, PictureInput(size.image_size))


@final
class PickScore(AbstractProxy):
    """PickScore (Kirstain et al. 2023): exp(logit_scale) cos(picture, prompt); about 18 to 24. Some code divides by 26.

    Args:
        path: yuvalkirstain/PickScore_v1, as a folder or that id: a ViT-H/14 in transformers' layout.
        processor: of its tokenizer and picture settings, which its card takes from there; null where the folder has
            them itself.
    """

    def __init__(self, path: str, processor: str | None = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K") -> None:
        self.path, self.processor = path, processor

    @property
    def name(self) -> str:
        return "pick_score"

    def identity(self) -> dict[str, Any]:
        return {"score": "exp(logit_scale) cosine", **clip_identity(self.path, self.processor)}

    def absent(self) -> str | None:
        return absent(self.path, *(() if self.processor is None else (self.processor,)))

    def to(self, device: str) -> None:
        load_clip(self.path, self.processor).to(device)

    def of_pictures(self, pictures: Pictures, prompts: Sequence[str]) -> Floats:
        network = load_clip(self.path, self.processor)
        scores: Floats = network.logit_scale * network.cosines(pictures, prompts)
        return scores
