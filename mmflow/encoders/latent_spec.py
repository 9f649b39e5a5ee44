"""What an autoencoder's config.json says of its latents: channels, stride, legal numbers of frames, shift and scale."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]
Numbers = float | tuple[float, ...]
"""One number for all channels, or one per channel."""


@dataclass(frozen=True)
class LatentSpec:
    """Latents of one autoencoder.

    Attributes:
        family: the diffusers class that loads it.
        channels: latent channels C.
        stride: pixels per latent along (time, height, width).
        frame_step: clips have 1 + k * frame_step frames.
        shift: subtracted from raw latents; None if it lies in the weights (LTX).
        scale: factor after that; None likewise.
    """

    family: str
    channels: int
    stride: tuple[int, int, int]
    frame_step: int
    shift: Numbers | None
    scale: Numbers | None

    @property
    def frame_wise(self) -> bool:
        """An autoencoder of pictures: it takes the frames of a clip one by one."""
        return self.family == "AutoencoderKL"


def _cubic(time: int, space: int) -> tuple[int, int, int]:
    return time, space, space


def _statistics(config: Config, default_scale: float) -> tuple[Numbers, Numbers]:
    """(raw - mean) * scaling_factor / std, whatever of the three a config states."""
    mean = config.get("latents_mean") or config.get("shift_factor") or 0.0
    std, factor = config.get("latents_std"), float(config.get("scaling_factor", default_scale))
    return (
        tuple(map(float, mean)) if isinstance(mean, list | tuple) else float(mean),
        factor if std is None else tuple(factor / float(s) for s in std),
    )


def _picture(config: Config) -> LatentSpec:
    stride = _cubic(1, 2 ** (len(config["block_out_channels"]) - 1))
    return LatentSpec("AutoencoderKL", config.get("latent_channels", 4), stride, 1, *_statistics(config, 0.18215))


def _wan(config: Config) -> LatentSpec:
    time = 2 ** sum(config.get("temperal_downsample", [False, True, True]))  # spelt so in the published files
    space = 2 ** (len(config.get("dim_mult", [1, 2, 4, 4])) - 1) * (config.get("patch_size") or 1)
    return LatentSpec("AutoencoderKLWan", config.get("z_dim", 16), _cubic(time, space), time, *_statistics(config, 1.0))


def _ltx(config: Config) -> LatentSpec:
    halvings = 2 ** sum(config.get("spatio_temporal_scaling", [True, True, True, False]))
    time = config.get("temporal_compression_ratio") or config.get("patch_size_t", 1) * halvings
    space = config.get("spatial_compression_ratio") or config.get("patch_size", 4) * halvings
    return LatentSpec(
        "AutoencoderKLLTXVideo", config.get("latent_channels", 128), _cubic(time, space), time, None, None
    )


def _cogvideox(config: Config) -> LatentSpec:
    time = int(config.get("temporal_compression_ratio", 4))
    stride = _cubic(time, 2 ** (len(config["block_out_channels"]) - 1))
    # It decodes latent frames in pairs after the first, so their number must be odd.
    return LatentSpec(
        "AutoencoderKLCogVideoX", config.get("latent_channels", 16), stride, 2 * time, *_statistics(config, 1.15258426)
    )


FAMILIES: dict[str, Callable[[Config], LatentSpec]] = {
    "AutoencoderKL": _picture,
    "AutoencoderKLWan": _wan,
    "AutoencoderKLLTXVideo": _ltx,
    "AutoencoderKLCogVideoX": _cogvideox,
}


def latent_spec(config: Config, where: str) -> LatentSpec:
    """Reads a config.json as `save_pretrained` of diffusers writes it.

    Args:
        config: its content.
        where: the path or id, for messages.

    Raises:
        ValueError: if it is no autoencoder that this project knows, or a number is missing.
    """
    name = config.get("_class_name")
    if name not in FAMILIES:
        what = f"a {name}" if name else f"no diffusers model ({config.get('architectures', 'no class is named')})"
        raise ValueError(f"{where} is {what}; autoencoders of these classes can be used: {', '.join(FAMILIES)}")
    try:
        return FAMILIES[name](config)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where}: its config.json is not that of a {name}: {error} is missing or wrong") from error
