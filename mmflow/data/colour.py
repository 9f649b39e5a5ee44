"""Any picture that PIL can open to 8-bit sRGB: grey, palette, CMYK, 16-bit, float, transparent, with an ICC profile."""

import io

import numpy as np
from PIL import Image, ImageCms


def to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The picture in 8-bit sRGB, what is transparent in it over `background`."""
    profile = image.info.get("icc_profile")
    image = _to_eight_bits(image)
    if not image.has_transparency_data:
        return _to_srgb(image if image.mode not in ("P", "1") else image.convert("RGB"), profile)
    rgba = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, background)
    opaque = rgba.convert("L" if image.mode in ("LA", "La") else "RGB")
    canvas.paste(_to_srgb(opaque, profile), mask=rgba.getchannel("A"))
    return canvas


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit and float grey to 8 bits by their range; PIL's own conversion clips at 255."""
    if image.mode.startswith("I"):
        return Image.fromarray(np.round(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        return Image.fromarray(np.clip(values * (255 if values.max() <= 1 else 1), 0, 255).astype(np.uint8))
    return image


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Through the embedded ICC profile; a profile that is broken or of another colour space is ignored."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(source):
                target = ImageCms.createProfile("sRGB")
                return ImageCms.profileToProfile(image, source, target, outputMode="RGB") or image.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")
