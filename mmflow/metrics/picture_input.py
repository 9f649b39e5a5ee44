"""Pictures as a released network was trained to see them: resized, cropped and normalised the way its publisher did.

How pictures are resized moves every score visibly, so it is part of a score's identity.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
RESAMPLE = {2: Image.Resampling.BILINEAR, 3: Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class PictureInput:
    """Pillow's resizing, which is antialiased, as CLIP's, open_clip's and ImageReward's own transforms are.

    Attributes:
        size: of the square that the network sees.
        short_side: to which pictures are resized before the middle is cut out; None is `size`.
        mean: per channel, of pixels in 0..1.
        std: likewise.
        resize: `crop` keeps the aspect ratio and cuts the middle out; `stretch` does not.
        resample: Pillow's number of the filter: 2 bilinear, 3 bicubic.
    """

    size: int = 224
    short_side: int | None = None
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    resize: Literal["crop", "stretch"] = "crop"
    resample: int = 3

    @classmethod
    def of_config(cls, config: dict[str, Any], size: int) -> "PictureInput":
        """As a `preprocessor_config.json` says it; what it does not say is CLIP's."""

        def side(value: Any, default: int) -> int:
            if isinstance(value, dict):
                return int(value.get("shortest_edge") or value.get("height") or default)
            return int(value or default)

        crop = config.get("do_center_crop", True)
        size = side(config.get("crop_size") if crop else config.get("size"), size)
        return cls(
            size,
            side(config.get("size"), size),
            tuple(config.get("image_mean", CLIP_MEAN)),
            tuple(config.get("image_std", CLIP_STD)),
            "crop" if crop else "stretch",
            int(config.get("resample", 3)),
        )

    def name(self) -> str:
        """What a score's identity says of it."""
        way = f"short side {self.short_side or self.size}, middle" if self.resize == "crop" else "stretched to"
        return f"Pillow {RESAMPLE[self.resample].name.lower()}, {way} {self.size}, mean {self.mean}, std {self.std}"

    def __call__(self, pictures: UInt8[np.ndarray, "N H W 3"]) -> Float[Tensor, "N 3 S S"]:
        """All pictures, ready for the network (host memory)."""
        seen = np.stack([self._resized(picture) for picture in pictures])
        x = torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 255
        return (x - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)

    def _resized(self, picture: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
        height, width = picture.shape[:2]
        if (height, width) == (self.size, self.size) and self.short_side in (None, self.size):
            return picture
        if self.resize == "stretch":
            wanted = (self.size, self.size)
        else:
            short = self.short_side or self.size
            wanted = (int(short * width / height), short) if height < width else (short, int(short * height / width))
        image = Image.fromarray(picture)
        image = image if image.size == wanted else image.resize(wanted, RESAMPLE[self.resample])
        left, top = ((image.width - self.size) // 2, (image.height - self.size) // 2)
        return np.asarray(image.crop((left, top, left + self.size, top + self.size)))
