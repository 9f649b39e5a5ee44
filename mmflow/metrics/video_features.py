"""What FVD is taken on: networks that see a whole clip. Frechet and kernel distance are those of pictures."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d, conv3d, interpolate, leaky_relu

from mmflow import draws
from mmflow.encoders.hub import complete, explained, quiet, read_config
from mmflow.metrics.clip_network import label, library
from mmflow.metrics.features import AbstractMediaFeatures, Floats, Frames
from mmflow.metrics.picture_input import PictureInput
from mmflow.metrics.pretrained import absent, digest

BATCH = 16
CHANNELS = (3, 32, 64, 64)
GRID = 2
"""Cells per axis over which the random network's responses are averaged."""


class AbstractVideoFeatures(AbstractMediaFeatures):
    """Clips of one shape to vectors; says nothing of pictures."""

    clips_only = True

    @abstractmethod
    def __call__(self, clips: Frames) -> Floats:
        """uint8 (N, T, H, W, 3) to (N, width), in float64."""

    def of(self, media: Sequence[Frames]) -> Floats:
        """Features of clips of any shapes.

        Raises:
            ValueError: if one is a picture.
        """
        if any(len(frames) < 2 for frames in media):
            raise ValueError(f"{self.name} sees clips: there are pictures among these")
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, frames in enumerate(media):
            by_shape.setdefault(frames.shape, []).append(index)
        rows: dict[int, Floats] = {}
        for members in by_shape.values():
            for start in range(0, len(members), BATCH):
                part = members[start : start + BATCH]
                rows |= dict(zip(part, self(np.stack([media[index] for index in part])), strict=True))
        return np.stack([rows[index] for index in range(len(media))]) if media else np.zeros(0)


@final
@dataclass(frozen=True)
class RandomVideoFeatures(AbstractVideoFeatures):
    """Three layers of fixed random convolutions in space and time: nothing to download. Ranks models of one world; its
    distances compare with no published FVD.

    Attributes:
        width: of the vectors.
        seed: of the weights.
    """

    width: int = 64
    seed: int = 0

    @property
    def name(self) -> str:
        return f"random-conv3d-{'-'.join(map(str, CHANNELS))}-grid{GRID}-width{self.width}-seed{self.seed}"

    def identity(self) -> dict[str, Any]:
        return {"network": self.name}

    def absent(self) -> None:
        """Its weights are drawn here."""
        return None

    def to(self, device: str) -> None:
        """Stays on the host, where it gives the same numbers on every machine."""

    @torch.no_grad()
    def __call__(self, clips: Frames) -> Floats:
        x = torch.from_numpy(np.ascontiguousarray(clips)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        pooled = [adaptive_avg_pool3d(x, GRID).flatten(1)]
        for i, (narrow, wide) in enumerate(pairwise(CHANNELS)):
            weight = draws.normal(self.seed, "random_video_features", (f"layer{i}",), 0, (wide, narrow, 3, 3, 3))
            x = leaky_relu(conv3d(x, weight * (2 / (27 * narrow)) ** 0.5, stride=(1, 2, 2), padding=1), 0.2)
            pooled.append(adaptive_avg_pool3d(x, GRID).flatten(1))
        total = torch.cat(pooled, dim=1)
        projection = draws.normal(self.seed, "random_video_features", ("out",), 0, (total.shape[1], self.width))
        features: Floats = (total @ projection * total.shape[1] ** -0.5).double().numpy()
        return features


@final
class TransformersVideoFeatures(AbstractVideoFeatures):
    """Mean of the last hidden states of a video network of the transformers library: VideoMAE, ViViT, TimeSformer.

    Args:
        path: a folder as `save_pretrained` writes it, or a repository id such as MCG-NJU/videomae-base.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return label(self.path)

    def identity(self) -> dict[str, Any]:
        prepare = self._prepare()
        return {"network": self.name, "weights": digest(self.path), "pictures": prepare.name()}

    def absent(self) -> str | None:
        return absent(self.path)

    def to(self, device: str) -> None:
        _load(self.path).to(device)

    def _prepare(self) -> PictureInput:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return PictureInput(int(read_config(self.path).get("image_size", 224)), None, mean, std, "crop", 2)

    @torch.inference_mode()
    def __call__(self, clips: Frames) -> Floats:
        network, prepare = _load(self.path), self._prepare()
        frames = int(network.config.num_frames)
        picked = np.linspace(0, clips.shape[1] - 1, frames).round().astype(int)  # as many as it was trained on
        pixels = torch.stack([prepare(clip[picked]) for clip in clips])
        states = network(pixel_values=pixels.to(network.device)).last_hidden_state
        features: Floats = states.mean(1).double().cpu().numpy()
        return features


@lru_cache(maxsize=1)
def _load(path: str) -> Any:
    transformers = library()
    with explained(path), quiet(transformers):
        network, info = transformers.AutoModel.from_pretrained(path, use_safetensors=True, output_loading_info=True)
    complete(info, path)
    return network.float().eval().requires_grad_(False)


@final
class I3dFeatures(AbstractVideoFeatures):
    """The features of FVD as it is published: I3D on Kinetics-400, its 400 logits, of clips at 224 x 224 in [-1, 1].

    The file is a TorchScript program, which is run: take it from a place that you trust.

    Args:
        path: i3d_torchscript.pt, of flateon/FVD-I3D-torchscript.
    """

    least = 10

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return "i3d"

    def identity(self) -> dict[str, Any]:
        return {"network": "i3d_torchscript", "weights": digest(self.path), "pictures": "bilinear 224, [-1, 1]"}

    def absent(self) -> str | None:
        return absent(self.path)

    def to(self, device: str) -> None:
        _program(self.path).to(device)

    @torch.inference_mode()
    def __call__(self, clips: Frames) -> Floats:
        if clips.shape[1] < self.least:
            raise ValueError(f"I3D takes clips of {self.least} frames and more, got {clips.shape[1]}")
        network = _program(self.path)
        features: Floats = network(i3d_pixels(clips), False, False, True).double().cpu().numpy()
        return features


def i3d_pixels(clips: Frames) -> Float[Tensor, "N 3 T 224 224"]:
    """Clips uint8 (N, T, H, W, 3) as I3D sees them: frames resized bilinearly, in [-1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(clips)).permute(0, 1, 4, 2, 3).float()
    n, t = x.shape[:2]
    x = interpolate(x.flatten(0, 1), size=(224, 224), mode="bilinear", align_corners=False)
    pixels: Tensor = (x / 127.5 - 1).unflatten(0, (n, t)).transpose(1, 2)
    return pixels


@lru_cache(maxsize=1)
def _program(path: str) -> Any:
    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no TorchScript program: {str(error).splitlines()[0]}") from error
