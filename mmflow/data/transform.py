"""From frames of any size to the sizes a model is trained at: aspect buckets of one area, resize and crop.

Nothing here draws or remembers: the place of the crop is an argument, which the caller draws by name.
"""

import math

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

Size = tuple[int, int]
"""(height, width) in pixels."""

ASPECTS = (1 / 2, 9 / 16, 2 / 3, 3 / 4, 1.0, 4 / 3, 3 / 2, 16 / 9, 2.0)
"""Width over height of the usual pictures, films and telephones."""


def buckets(area: int, aspects: tuple[float, ...] = ASPECTS, multiple: int = 16) -> tuple[Size, ...]:
    """One size per aspect, of about `area` pixels, tallest first.

    area      pixels, e.g. 256 * 256
    aspects   width over height
    multiple  both sides are multiples of it: stride of the autoencoder x patch size; at least one multiple long

    Raises:
        ValueError: if an argument is not positive, or `area` is smaller than one multiple squared.
    """
    if not aspects or min(aspects) <= 0 or multiple < 1:
        raise ValueError(f"aspects and multiple must be positive, got aspects {aspects} and multiple {multiple}")
    if area < multiple * multiple:
        raise ValueError(f"an area of {area} pixels holds no side of {multiple}: give at least {multiple * multiple}")

    def side(length: float) -> int:
        return max(1, math.floor(length / multiple + 0.5)) * multiple

    sizes = {(side(math.sqrt(area / aspect)), side(math.sqrt(area * aspect))) for aspect in aspects}
    return tuple(sorted(sizes, key=lambda size: (size[1] / size[0], size)))


def nearest_bucket(height: int, width: int, sizes: tuple[Size, ...]) -> Size:
    """The size whose aspect is nearest, i.e. the one for which least is cropped away; the first of equals.

    Raises:
        ValueError: if there are no sizes.
    """
    if not sizes:
        raise ValueError("no buckets to choose from: give at least one (height, width)")
    aspect = math.log(width / height)
    return min(sizes, key=lambda size: abs(math.log(size[1] / size[0]) - aspect))


def nearest_buckets(
    heights: Int[np.ndarray, " n"], widths: Int[np.ndarray, " n"], sizes: tuple[Size, ...]
) -> list[Size]:
    """`nearest_bucket` of many samples."""
    if not sizes:
        raise ValueError("no buckets to choose from: give at least one (height, width)")
    legal = np.array([math.log(width / height) for height, width in sizes])
    nearest = np.abs(legal - np.log(widths / heights)[:, None]).argmin(1)
    return [sizes[i] for i in nearest.tolist()]


def cut_away(source: Size, size: Size, crop: tuple[float, float]) -> tuple[float, float, bool]:
    """(top, left) of the part of a picture that `resize_cover_crop` takes, in the picture's own pixels, and whether it
    is but a part: at least one pixel of the result would stand out on some side.
    """
    scale = max(size[0] / source[0], size[1] / source[1])
    rest_height, rest_width = source[0] - size[0] / scale, source[1] - size[1] / scale
    return crop[1] * rest_height, crop[0] * rest_width, max(rest_height, rest_width) * scale >= 1


def resize_cover_crop(
    frames: UInt8[np.ndarray, "T H W 3"], size: Size, crop: tuple[float, float] = (0.5, 0.5)
) -> UInt8[np.ndarray, "T h w 3"]:
    """`cover_crop` of every frame."""
    return np.stack([cover_crop(Image.fromarray(frame), size, crop) for frame in frames])


def cover_crop(picture: Image.Image, size: Size, crop: tuple[float, float] = (0.5, 0.5)) -> UInt8[np.ndarray, "h w 3"]:
    """Resize until the picture just covers `size`, keeping its aspect, and crop what stands out.

    size  (height, width) of the result
    crop  (u, v) in [0, 1]: place of the crop from left to right and from top to bottom; (0.5, 0.5) is the centre

    Antialiased: Lanczos over all source pixels that a target pixel covers. The crop's place is not rounded to a pixel.

    Raises:
        ValueError: if an argument is out of range.
    """
    height, width = size
    u, v = crop
    if height < 1 or width < 1 or not (0 <= u <= 1 and 0 <= v <= 1):
        raise ValueError(f"need a positive size and a crop within [0, 1], got size {size} and crop {crop}")
    source_width, source_height = picture.size
    scale = max(height / source_height, width / source_width)
    # min: a rounding error must not reach over the edge
    box_height, box_width = min(height / scale, source_height), min(width / scale, source_width)
    left, top = u * (source_width - box_width), v * (source_height - box_height)
    box = (left, top, min(left + box_width, source_width), min(top + box_height, source_height))
    return np.array(picture.resize((width, height), Image.Resampling.LANCZOS, box=box))
