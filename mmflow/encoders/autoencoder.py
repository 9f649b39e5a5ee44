"""Pixels to latents and back. Latents leave here normalised: (raw - shift) * scale."""

from abc import ABC, abstractmethod
from typing import final

from jaxtyping import Float
from torch import Tensor

from mmflow.encoders.identity import Identity
from mmflow.encoders.latent_spec import Numbers


class AbstractAutoencoder(ABC):
    """A frozen autoencoder; constructors load no weights, so that `--help` and configuration checks stay cheap."""

    @property
    @abstractmethod
    def channels(self) -> int:
        """Latent channels C."""

    @property
    @abstractmethod
    def stride(self) -> tuple[int, int, int]:
        """Pixels per latent along (time, height, width)."""

    @property
    @abstractmethod
    def frame_step(self) -> int:
        """Clips have 1 + k * frame_step frames: the first becomes a latent frame of its own, as a picture does."""

    @abstractmethod
    def load(self) -> None:
        """Reads the weights now, so that what is wrong with them is said before anything is trained.

        Raises:
            ValueError: if they cannot be had, or are not what the configuration says of them.
        """

    @property
    def is_drawn(self) -> bool:
        """Whether latents are drawn from the posterior, anew at each visit, instead of being its mean."""
        return False

    @abstractmethod
    def identity(self, whole: bool = False) -> Identity:
        """What raw latents depend on; `whole` reads every byte of the weights for their digest."""

    def encode(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C t h w"]:
        """Normalised latents of pixels in [-1, 1]."""
        return self.normalise(self.encode_raw(pixels))

    @abstractmethod
    def encode_raw(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C t h w"]:
        """Latents as the network gives them, fp32, before shift and scale."""

    def encode_kept(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B K t h w"]:
        """What a cache keeps: raw latents, or where they are drawn the posterior's mean and log-variance (K = 2C)."""
        return self.encode_raw(pixels)

    @abstractmethod
    def normalise(self, raw: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B C t h w"]:
        """(raw - shift) * scale."""

    def own_numbers(self) -> tuple[Numbers, Numbers] | None:
        """Shift and scale where they come with the weights; None where the configuration says them."""
        return None

    def take_numbers(self, shift: Numbers, scale: Numbers) -> None:  # noqa: B027 - most have nothing to take
        """What `own_numbers` said of the same weights before, so that these need not be read to normalise."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Pixels, about [-1, 1] and not clamped, of normalised latents."""

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(t, h, w) of the latents of T x H x W pixels.

        Raises:
            ValueError: if the stride does not divide them, or no clip has so many frames.
        """
        k, rest = divmod(frames - 1, self.frame_step)
        if rest:
            raise ValueError(
                f"the autoencoder takes clips of 1 + k * {self.frame_step} frames: not {frames}, but "
                f"{1 + k * self.frame_step} or {1 + (k + 1) * self.frame_step}"
            )
        t, h, w = self.stride
        for name, size, stride in (("height", height, h), ("width", width, w)):
            if size % stride:
                raise ValueError(
                    f"{name} {size} is not divisible by the autoencoder's stride {stride}: the nearest legal numbers "
                    f"are {max(size // stride, 1) * stride} and {(size // stride + 1) * stride}"
                )
        return 1 + (frames - 1) // t, height // h, width // w


def draw(kept: Float[Tensor, "B K t h w"], noise: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B C t h w"]:
    """Raw latents drawn from the posterior: mean + exp(log-variance / 2) x noise (arXiv 1312.6114, equation 10)."""
    mean, log_variance = kept.chunk(2, dim=1)
    return mean + (log_variance / 2).exp() * noise


@final
class RgbAutoencoder(AbstractAutoencoder):
    """The identity: latents are the three colours. For small pictures on a laptop, where no autoencoder is needed.

    Args:
        scale: factor on pixels in [-1, 1]; brings their spread near the noise's.
        shift: subtracted before scaling.
    """

    def __init__(self, scale: float = 1.0, shift: float = 0.0) -> None:
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.scale, self.shift = scale, shift

    @property
    def channels(self) -> int:
        return 3

    @property
    def stride(self) -> tuple[int, int, int]:
        return 1, 1, 1

    @property
    def frame_step(self) -> int:
        return 1

    def load(self) -> None:
        """There is nothing to load."""

    def identity(self, whole: bool = False) -> Identity:
        return {"kind": type(self).__name__}

    def encode_raw(self, pixels: Float[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C t h w"]:
        return pixels

    def normalise(self, raw: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B C t h w"]:
        return (raw - self.shift) * self.scale

    def decode(self, latents: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B 3 T H W"]:
        return latents / self.scale + self.shift
