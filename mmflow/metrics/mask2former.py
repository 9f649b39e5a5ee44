"""GenEval with a Mask2Former by path, and colours by a CLIP: the official protocol's two networks, in transformers.

The official evaluator runs mmdet's weights and post-processing; numbers of this one carry another name, and are to be
calibrated on pictures with known scores before the two are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from mmflow.encoders.hub import complete, explained, quiet, read_config
from mmflow.metrics.clip_network import label, library, load_clip
from mmflow.metrics.detector import AbstractDetector
from mmflow.metrics.features import Frames
from mmflow.metrics.geneval import THRESHOLD, Found
from mmflow.metrics.picture_input import PictureInput
from mmflow.metrics.pretrained import absent, digest

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
NAMES = {"mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard"}
"""GenEval's names of COCO's classes (its object_names.txt), where the networks' own are others."""
MOST = 100
"""Objects that are looked at in a picture, the most confident ones."""
GRAY = 0x99
"""Paints what is not the object before its colour is asked for."""


@dataclass(frozen=True)
class Thing:
    """One object found; see `geneval.Found`."""

    name: str
    color: str
    score: float
    box: tuple[float, float, float, float]


@final
class Mask2FormerDetector(AbstractDetector):
    """Instances of COCO's 80 classes.

    Args:
        path: a Mask2Former for instances of COCO, as a folder or an id: facebook/mask2former-swin-small-coco-instance.
        clip: names colours; GenEval's is openai/clip-vit-large-patch14.
    """

    def __init__(self, path: str, clip: str = "openai/clip-vit-large-patch14") -> None:
        self.path, self.clip = path, clip

    @property
    def name(self) -> str:
        return f"geneval (hf)/{label(self.path)}"

    def identity(self) -> dict[str, Any]:
        return {
            "detector": label(self.path),
            "weights": digest(self.path),
            "colors": label(self.clip),
            "color_weights": digest(self.clip),
        }

    def absent(self) -> str | None:
        return absent(self.path, self.clip)

    def to(self, device: str) -> None:
        _load(self.path)[0].to(device)
        load_clip(self.clip).to(device)

    def objects(self, pictures: Sequence[Frames]) -> list[list[Found]]:
        return [list(self._look(picture)) for picture in pictures]

    @torch.inference_mode()
    def _look(self, picture: Frames) -> list[Thing]:
        network, prepare = _load(self.path)
        output = network(pixel_values=prepare(picture[None]).to(network.device))
        names, things = network.config.id2label, []
        classes, masks = (x[0].float().cpu() for x in (output.class_queries_logits, output.masks_queries_logits))
        for kind, score, mask in instances(classes, masks, picture.shape[:2]):
            ys, xs = np.nonzero(mask.numpy())
            box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
            name = NAMES.get(names[kind], names[kind])
            things.append(Thing(name, color_of(self.clip, picture, mask.numpy(), name), score, box))
        return things


def instances(
    classes: Float[Tensor, "Q K"], masks: Float[Tensor, "Q h w"], size: tuple[int, ...]
) -> list[tuple[int, float, Bool[Tensor, "H W"]]]:
    """(class, confidence, mask) of the objects, most confident first; the last of the K classes is "nothing".

    Confidence is the class's probability times the mean probability of the mask's pixels, as in mmdet's head.
    """
    probabilities = classes.softmax(-1)[:, :-1]
    num = probabilities.shape[1]
    scores, order = probabilities.flatten().topk(min(MOST, probabilities.numel()))
    found = []
    for score, place in zip(scores.tolist(), order.tolist(), strict=True):
        if score <= THRESHOLD:
            break
        soft = interpolate(masks[place // num][None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        mask = soft > 0
        if bool(mask.any()):
            found.append((place % num, score * float(soft[mask].sigmoid().mean()), mask))
    return sorted(found, key=lambda each: -each[1])


def color_of(clip: str, picture: Frames, mask: np.ndarray, name: str) -> str:
    """The colour whose sentences are nearest to the object on grey, cut to its box."""
    ys, xs = np.nonzero(mask)
    alone = np.where(mask[..., None], picture, np.uint8(GRAY))[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    seen = load_clip(clip).picture_features(alone[None])[0]
    return COLORS[int((_color_sentences(clip, name) @ seen).argmax())]


@lru_cache(maxsize=256)
def _color_sentences(clip: str, name: str) -> Float[Tensor, "10 D"]:
    """The mean of each colour's three sentences, all normalised."""
    sentences = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
    said = normalize(load_clip(clip).text_features(sentences), dim=-1).unflatten(0, (len(COLORS), -1))
    return normalize(said.mean(1), dim=-1)


@lru_cache(maxsize=1)
def _load(path: str) -> tuple[Any, PictureInput]:
    """The network and how it wants to see pictures: stretched to its own square.

    Raises:
        ValueError: if it cannot be had, or weights are missing.
    """
    transformers = library()
    with explained(path), quiet(transformers):
        network, info = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
            path, use_safetensors=True, output_loading_info=True
        )
    complete(info, path)
    config = read_config(path, name="preprocessor_config.json")
    size = config.get("size", {})
    side = int(size.get("height") or size.get("shortest_edge") or 384) if isinstance(size, dict) else int(size)
    mean = tuple(config.get("image_mean", (0.485, 0.456, 0.406)))
    std = tuple(config.get("image_std", (0.229, 0.224, 0.225)))
    prepare = PictureInput(side, None, mean, std, "stretch", int(config.get("resample", 2)))
    return network.float().eval().requires_grad_(False), prepare
