"""Features of any picture network of the transformers library: DINOv2, SigLIP, ViT and others."""

from functools import lru_cache
from typing import Any, final

import numpy as np
import torch

from mmflow.encoders.hub import complete, explained, quiet, read_config
from mmflow.metrics.clip_network import label, library, picture_input
from mmflow.metrics.features import AbstractFeatures, Floats, Pictures
from mmflow.metrics.pretrained import absent, digest

BATCH = 64


@final
class TransformersFeatures(AbstractFeatures):
    """The pooled output of a network, or the mean of its last hidden states where it pools nothing.

    Args:
        path: a folder as `save_pretrained` writes it, with its preprocessor_config.json, or a repository id such as
            facebook/dinov2-large.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return label(self.path)

    def identity(self) -> dict[str, Any]:
        pictures = picture_input(self.path, read_config(self.path).get("image_size", 224))
        return {"network": label(self.path), "weights": digest(self.path), "pictures": pictures.name()}

    def absent(self) -> str | None:
        return absent(self.path)

    def to(self, device: str) -> None:
        _load(self.path).to(device)

    @torch.inference_mode()
    def __call__(self, pictures: Pictures) -> Floats:
        network = _load(self.path)
        prepare = picture_input(self.path, read_config(self.path).get("image_size", 224))
        parts = []
        for start in range(0, len(pictures), BATCH):
            output = network(pixel_values=prepare(pictures[start : start + BATCH]).to(network.device))
            pooled = getattr(output, "pooler_output", None)
            if pooled is None:  # tokens (N, L, C), or a map (N, C, h, w)
                states = output.last_hidden_state
                pooled = states.mean(1) if states.ndim == 3 else states.flatten(2).mean(2)
            parts.append(pooled.flatten(1).double().cpu().numpy())
        return np.concatenate(parts)


@lru_cache(maxsize=2)
def _load(path: str) -> Any:
    transformers = library()
    with explained(path), quiet(transformers):
        network, info = transformers.AutoModel.from_pretrained(path, use_safetensors=True, output_loading_info=True)
    complete(info, path)
    return network.float().eval().requires_grad_(False)
