"""The frozen networks of a run as one thing: what training, previews, sampling and scoring need beside the model."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from mmflow.batch import Known, TextFeatures
from mmflow.encoders.autoencoder import AbstractAutoencoder, draw
from mmflow.encoders.cache import PromptCache
from mmflow.encoders.diffusers_autoencoder import DiffusersAutoencoder
from mmflow.encoders.identity import Identity
from mmflow.encoders.joint_text import JointTextEncoder
from mmflow.encoders.known import encode_known
from mmflow.encoders.stock import (
    Components,
    StockCall,
    autoencoder_obstacles,
    stock_call,
    text_obstacles,
    write_autoencoder,
    write_text,
)
from mmflow.encoders.text import AbstractTextEncoder
from mmflow.said import Said


@dataclass(frozen=True)
class Encoders:
    """An autoencoder and a text encoder. Held by the data module and by nothing that learns."""

    autoencoder: AbstractAutoencoder
    text: AbstractTextEncoder
    _prompts: PromptCache = field(default_factory=PromptCache, init=False, repr=False, compare=False)

    def load(self, cached: Container[str] = ()) -> None:
        """Reads all weights now, aside from those of networks whose words a cache has: `latents`, or names of text
        encoders; ValueError if some cannot be had or are not what the configuration says."""
        if "latents" not in cached:
            self.autoencoder.load()
        self.text.load([name for name in self.text.names if name not in cached])

    def identities(self, whole: bool = False) -> tuple[Identity, dict[str, Identity]]:
        """What raw latents, and the words of each text encoder, depend on; `whole` reads every byte of the weights."""
        absent = getattr(self.text, "absent", ())
        named = {name: self.text.identity(name, whole) for name in self.text.names if name not in absent}
        return self.autoencoder.identity(whole), named

    @torch.no_grad()
    def say(self, name: str, captions: list[str], device: torch.device | str = "cpu") -> Said:
        """What one text encoder says of captions, none of which is null."""
        return self.text.say(name, captions, device)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, t, h, w) of the latents of T x H x W pixels; ValueError if the stride does not divide them."""
        return self.autoencoder.channels, *self.autoencoder.latent_shape(frames, height, width)

    def stock_obstacles(self) -> list[str]:
        """Why the stock SD3 programs cannot read prompts and decode latents as these do; empty if they can."""
        return [*autoencoder_obstacles(self.autoencoder), *text_obstacles(self.text)]

    def write_stock(self, folder: Path) -> tuple[Components, StockCall]:
        """The folders of a StableDiffusion3Pipeline beside its transformer, and how to call it.

        Raises:
            ValueError: if it cannot hold them.
        """
        if not isinstance(self.autoencoder, DiffusersAutoencoder) or not isinstance(self.text, JointTextEncoder):
            raise ValueError("; ".join(self.stock_obstacles()))
        parts = write_autoencoder(self.autoencoder, folder) | write_text(self.text, folder)
        return parts, stock_call(self.text)

    @torch.no_grad()
    def encode_text(self, prompts: list[str], device: torch.device | str = "cpu") -> TextFeatures:
        """Features of prompts, on the host. They are kept, so that a prompt made again is not encoded again.

        Args:
            prompts: texts; an empty one is the null state.
            device: of the model, where encoders work that are not told otherwise.
        """
        return self._prompts(prompts, lambda missing: self.text.encode(missing, device=device))

    @torch.no_grad()
    def encode_captions(
        self,
        captions: list[str],
        kept: Bool[Tensor, "B E"] | None,
        device: torch.device | str,
        said: Mapping[str, Said] | None = None,
    ) -> TextFeatures:
        """Features of the captions of samples, on `device`; `kept` says which encoders see each caption, `said` what a
        cache has of their words."""
        return self.text.encode(captions, kept, device, said)

    @torch.no_grad()
    def encode_pixels(self, pixels: UInt8[Tensor, "B 3 T H W"]) -> Float[Tensor, "B C t h w"]:
        """Normalised latents of 8-bit pixels, fp32; of a posterior its mean."""
        return self.autoencoder.encode(pixels.float() / 127.5 - 1)

    def latents(
        self,
        pixels: tuple[Tensor, ...],
        raw: tuple[Tensor | None, ...] | None,
        noise: tuple[Tensor, ...] | None = None,
    ) -> tuple[Float[Tensor, "_ C t h w"], ...]:
        """Normalised latents of groups of 8-bit pixels, fp32; `raw` is what a cache has in their place, and `noise`
        draws them from the posterior."""
        kept = [
            self.encode_kept(p) if r is None else r.float()
            for p, r in zip(pixels, raw or (None,) * len(pixels), strict=True)
        ]
        drawn = kept if noise is None else [draw(k, n) for k, n in zip(kept, noise, strict=True)]
        return tuple(self.autoencoder.normalise(each) for each in drawn)

    @torch.no_grad()
    def encode_kept(self, pixels: UInt8[Tensor, "B 3 T H W"]) -> Float[Tensor, "B K t h w"]:
        """What a cache keeps of 8-bit pixels, fp32; see `AbstractAutoencoder.encode_kept`."""
        return self.autoencoder.encode_kept(pixels.float() / 127.5 - 1)

    @torch.no_grad()
    def encode_known(self, pixels: UInt8[Tensor, "B 3 T H W"], unknown: Bool[Tensor, "B 1 T H W"]) -> Known:
        """What the model is given of pixels of which some are unknown; see `known.encode_known`."""
        return encode_known(self.autoencoder, pixels, unknown)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Pixels of normalised latents."""
        return self.autoencoder.decode(latents)
