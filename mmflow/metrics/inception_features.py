"""Features of FID as it was first defined: Inception's, from the published weights by path."""

from functools import lru_cache
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from mmflow.metrics.features import AbstractFeatures, Floats, Pictures
from mmflow.metrics.inception import Inception
from mmflow.metrics.pretrained import BUFFERS, absent, check_layout, digest, read_weights

SIDE = 299
BATCH = 32


@final
class InceptionFeatures(AbstractFeatures):
    """2,048 numbers per picture. Only distances with the same resizing compare.

    Args:
        path: pt_inception-2015-12-05-6726825d.pth (a release of mseitzer/pytorch-fid), or its tensors as .safetensors.
        resize: `clean`, as clean-fid: Pillow's bicubic, antialiased, of each channel as floats; `pytorch-fid`: torch's
            bilinear, not antialiased, which most published numbers have.
    """

    def __init__(self, path: str, resize: Literal["clean", "pytorch-fid"] = "clean") -> None:
        self.path, self.resize = path, resize

    @property
    def name(self) -> str:
        return f"inception-{self.resize}"

    def identity(self) -> dict[str, Any]:
        return {"network": "inception-2015-12-05", "weights": digest(self.path), "pictures": self.resize}

    def absent(self) -> str | None:
        return absent(self.path)

    def to(self, device: str) -> None:
        load_inception(self.path).to(device)

    @torch.inference_mode()
    def __call__(self, pictures: Pictures) -> Floats:
        network = load_inception(self.path)
        device = network.fc.weight.device
        prepare = clean if self.resize == "clean" else stretched
        parts = [
            network(prepare(pictures[start : start + BATCH]).to(device)).double().cpu().numpy()
            for start in range(0, len(pictures), BATCH)
        ]
        return np.concatenate(parts)


def clean(pictures: Pictures) -> Float[Tensor, "N 3 299 299"]:
    """(x - 128) / 128 of channels resized as floats."""
    side, way = (SIDE, SIDE), Image.Resampling.BICUBIC
    channels = pictures.transpose(0, 3, 1, 2).astype(np.float32).reshape(-1, *pictures.shape[1:3])
    resized = np.stack([np.asarray(Image.fromarray(channel).resize(side, way)) for channel in channels])
    return (torch.from_numpy(resized.reshape(-1, 3, SIDE, SIDE)) - 128) / 128


def stretched(pictures: Pictures) -> Float[Tensor, "N 3 299 299"]:
    """2 x / 255 - 1."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    return 2 * interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False) - 1


@lru_cache(maxsize=1)
def load_inception(path: str) -> Inception:
    """The network with a file's weights.

    Raises:
        ValueError: if the file is not there, or a key is missing, left over or of another shape.
    """
    weights, network = read_weights(path), Inception()
    names = [name for name in network.state_dict() if name.rsplit(".", 1)[-1] not in BUFFERS]
    check_layout(weights, {name: tuple(network.state_dict()[name].shape) for name in names}, path)
    network.load_state_dict({name: weights[name].float() for name in names}, strict=False)
    return network.eval().requires_grad_(False)
