"""Published autoencoders without their weights, for whoever asks what they cost and not what they see."""

from typing import Any

from mmflow.encoders.hub import require

SD3 = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""Its vae/config.json; Stable Diffusion's has 4 channels and the same blocks."""


def bare_autoencoder(channels: int, stride: tuple[int, int, int]) -> Any:
    """The published network of these channels and this stride, built on the current device; None if there is none.

    Raises:
        ValueError: if diffusers is not installed.
    """
    require("diffusers", "transformers")
    import diffusers

    network: Any = None
    if tuple(stride) == (1, 8, 8):
        network = diffusers.AutoencoderKL(**SD3 | {"latent_channels": channels})
    elif tuple(stride) == (4, 8, 8) and channels == 16:
        network = diffusers.AutoencoderKLWan()
    return None if network is None else network.eval()
