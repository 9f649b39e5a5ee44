"""What travels between the rooms, and the conventions that all of them share.

Letters: B samples, C latent channels, T frames, H height, W width, N visual tokens, L context tokens, D model width,
K heads, E head width, P context parts (one per text encoder sequence), V pooled width. `B C T H W` always: a picture
is a video with T=1.

Conventions: t=0 is data and t=1 is noise, in [0, 1] and fp32; pixels are in [-1, 1] (uint8 until they reach the
device); latents are normalised, (latent - shift) * scale.

A step is a bag of samples of any shape: `groups`, a tuple of dense tensors `B_g C T H W`. Everything that is stated per
sample (captions, u, keys, ...) is in the order of the samples in the groups, first group first.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from mmflow.said import Said
from mmflow.sample import Hole as Hole
from mmflow.sample import Key as Key
from mmflow.sample import Sample as Sample

LEVELS = tuple(k / 8 for k in range(1, 9))
"""Times at which validation loss is taken (SD3 paper, section 5.3.3)."""
Groups = tuple[Float[Tensor, "_ _ _ _ _"], ...]


def count(groups: tuple[Tensor, ...]) -> int:
    """Number of samples in a bag."""
    return sum(len(group) for group in groups)


@dataclass(frozen=True)
class TextFeatures:
    """What the frozen text encoders say of B captions, packed: no padding between captions of different length."""

    context: Float[Tensor, "L C"]
    """Token features, sample by sample and, within a sample, part by part."""
    lengths: Int[Tensor, "B P"]
    """Tokens of each sample in each part.

    Stays in host memory, so that no step waits for the device to know a shape.
    """
    pooled: Float[Tensor, "B V"]

    def __post_init__(self) -> None:
        assert len(self.context) == int(self.lengths.sum()), "context rows must equal the sum of the lengths"

    def __len__(self) -> int:
        return len(self.lengths)

    def select(self, samples: list[int]) -> "TextFeatures":
        """The features of the named samples, in the named order; one sample may be named several times."""
        pieces = self.context.split(self.lengths.sum(1).tolist())
        return TextFeatures(
            context=torch.cat([pieces[i] for i in samples]) if samples else self.context[:0],
            lengths=self.lengths[samples],
            pooled=self.pooled[samples],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TextFeatures":
        """Features on another device; lengths stay where they are."""
        return TextFeatures(
            self.context.to(device, non_blocking=non_blocking),
            self.lengths,
            self.pooled.to(device, non_blocking=non_blocking),
        )

    @staticmethod
    def cat(parts: "list[TextFeatures]") -> "TextFeatures":
        """The samples of all `parts`, one after the other."""
        return TextFeatures(
            torch.cat([part.context for part in parts]),
            torch.cat([part.lengths for part in parts]),
            torch.cat([part.pooled for part in parts]),
        )


@dataclass(frozen=True)
class Known:
    """What is given of one group: clean latents where the mask is 0; 1 marks what is to be generated."""

    latents: Float[Tensor, "B C T H W"]
    mask: Float[Tensor, "B 1 T H W"]

    def select(self, samples: list[int]) -> "Known":
        return Known(self.latents[samples], self.mask[samples])

    def dropped(self) -> "Known":
        """Nothing: all is to be generated."""
        return Known(torch.zeros_like(self.latents), torch.ones_like(self.mask))

    @staticmethod
    def cat(parts: "list[Known]") -> "Known":
        """The samples of all `parts`, one after the other."""
        return Known(torch.cat([part.latents for part in parts]), torch.cat([part.mask for part in parts]))


@dataclass(frozen=True)
class Conditioning:
    """All that the network is told beside z_t and t."""

    text: TextFeatures
    known: tuple[Known, ...] | None = None
    """One entry per group, or None: nothing is known and everything is generated."""
    framed: Float[Tensor, "B 4"] | None = None
    """Height and width of each sample's file, and top and left edge of its crop, in the file's pixels: for a backbone
    that conditions on them (arXiv 2307.01952, section 2.2). None where no source says it, and in sampling."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Conditioning":
        """All tensors on `device`, the lengths of the text aside."""
        known = None
        if self.known is not None:
            known = tuple(Known(k.latents.to(device), k.mask.to(device)) for k in self.known)
        framed = None if self.framed is None else self.framed.to(device, non_blocking=non_blocking)
        return Conditioning(self.text.to(device, non_blocking=non_blocking), known, framed)


@dataclass(frozen=True)
class Batch:
    """One rank's share of one micro-step.

    Made in a loader's worker; latents and conditioning are added on the device.
    """

    pixels: tuple[UInt8[Tensor, "_ 3 _ _ _"], ...]
    captions: tuple[str, ...]
    """Empty where no text encoder is to see it."""
    u: Float[Tensor, " B"]
    """One uniform per sample, from which the objective's density makes t."""
    eps: Groups
    """Noise, in the shape of the latents."""
    keys: tuple[Key, ...]
    visits: tuple[int, ...]
    planned: int
    """Samples that the plan gave this optimizer step over all ranks and micro-steps; holes included."""
    next_position: int
    """Place in the plan after this optimizer step."""
    closes_step: bool
    """True for the last micro-step of an optimizer step."""
    repeats: int = 1
    """Validation: levels of each sample, which is read once. Pixels and captions are per sample; u, eps, keys and
    visits, like latents and conditioning, per sample and level, levels fastest."""
    holes: tuple[Hole, ...] = ()
    fates: tuple[str, ...] = ()
    """How much of each sample's file was used, see `Sample.fate`; () is all of each."""
    framed: Float[Tensor, "_ 4"] | None = None
    """Of each sample what `Sample.framed` says; None where no source says it."""
    kept: Bool[Tensor, "S E"] | None = None
    """Which of the E text encoders see each caption (host memory); None is all of them."""
    unknown: tuple[Bool[Tensor, "_ 1 _ _ _"], ...] | None = None
    """Pixels that the model is not given, in the shapes of `pixels`; None: it is given nothing."""
    raw: tuple[Tensor | None, ...] | None = None
    """From a cache, of the groups whose pixels were not read: latents before shift and scale, or the mean and
    log-variance that `posterior` draws them from."""
    posterior: Groups | None = None
    """Noise of the autoencoder's posterior, a latent for every sample; None: latents are its mean."""
    said: Mapping[str, Said] = field(default_factory=dict)
    """What a cache has of the captions, by encoder."""
    latents: Groups | None = None
    conditioning: Conditioning | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """All tensors on `device`."""

        def move(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(tensor.to(device, non_blocking=non_blocking) for tensor in tensors)

        return dataclasses.replace(
            self,
            pixels=move(self.pixels),
            unknown=None if self.unknown is None else move(self.unknown),
            u=self.u.to(device, non_blocking=non_blocking),
            eps=move(self.eps),
            posterior=None if self.posterior is None else move(self.posterior),
            framed=None if self.framed is None else move((self.framed,))[0],
            raw=None if self.raw is None else tuple(None if r is None else move((r,))[0] for r in self.raw),
            said={name: said.to(device, non_blocking) for name, said in self.said.items()},
            latents=None if self.latents is None else move(self.latents),
            conditioning=None if self.conditioning is None else self.conditioning.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "Batch":
        """Page-locked copies, for transfers that do not wait."""
        return dataclasses.replace(
            self,
            pixels=tuple(p.pin_memory() for p in self.pixels),
            unknown=None if self.unknown is None else tuple(m.pin_memory() for m in self.unknown),
            u=self.u.pin_memory(),
            eps=tuple(e.pin_memory() for e in self.eps),
            posterior=None if self.posterior is None else tuple(e.pin_memory() for e in self.posterior),
            raw=None if self.raw is None else tuple(None if r is None else r.pin_memory() for r in self.raw),
            said={name: said.pin_memory() for name, said in self.said.items()},
        )


@dataclass(frozen=True, eq=False)
class Piece:
    """Frames that are given, from one place of what is to be made on."""

    first: int
    frames: UInt8[np.ndarray, "T H W 3"]
    unknown: Bool[np.ndarray, "T H W"]
    """Pixels of them that are to be made all the same."""


@dataclass(frozen=True, eq=False)
class Given:
    """What is given of a picture or clip to make; the rest is made to fit."""

    pieces: tuple[Piece, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    """Where it was read from: `image`, `last_image`, `video`, `mask`."""

    def laid_out(
        self, frames: int, height: int, width: int
    ) -> tuple[UInt8[np.ndarray, "T H W 3"], Bool[np.ndarray, "T H W"]]:
        """All frames, black where nothing is given, and the pixels that are not given."""
        pixels, unknown = np.zeros((frames, height, width, 3), np.uint8), np.ones((frames, height, width), bool)
        for piece in self.pieces:
            place = slice(piece.first, piece.first + len(piece.frames))
            pixels[place], unknown[place] = piece.frames, piece.unknown
        return pixels, unknown


@dataclass(frozen=True)
class Request:
    """One picture or clip to make."""

    index: int
    """Names its file; has no part in what is made."""
    prompt: str
    seed: int
    frames: int
    """In pixels, like height and width; 1 is a picture."""
    height: int
    width: int
    num_steps: int | None = None
    """None: the run's own setting."""
    guidance_scale: float | None = None
    """None: the run's own setting; 1 is no guidance."""
    negative_prompt: str | None = None
    """None: guidance away from the null state."""
    given: Given | None = field(default=None, compare=False, repr=False)


class Whole(list[Any]):
    """A list that Lightning hands on as it is: nothing in it moves to a device."""

    def to(self, *args: object, **kwargs: object) -> "Whole":
        """Itself."""
        return self


def request_batches(requests: Iterable[Request], batch_size: int) -> Iterator[Whole]:
    """Requests that can be made at once: of one shape and number of steps, in the order of their index."""

    def together(request: Request) -> tuple[int, ...]:
        return request.frames, request.height, request.width, request.num_steps or 0

    ordered = sorted(requests, key=lambda request: (*together(request), request.index))
    for (frames, *_), group in groupby(ordered, key=together):
        limit = max(1, batch_size // frames)
        while chunk := list(islice(group, limit)):
            yield Whole(chunk)


@runtime_checkable
class Codec(Protocol):
    """The frozen networks, as sampling sees them."""

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, t, h, w) of the latents of T x H x W pixels; ValueError if the stride does not divide them."""

    def encode_text(self, prompts: list[str], device: torch.device) -> TextFeatures:
        """Features on the host; an empty prompt is the null state. `device` is the model's."""

    def decode(self, latents: Float[Tensor, "B C t h w"]) -> Float[Tensor, "B 3 T H W"]:
        """Pixels of normalised latents."""

    def encode_known(self, pixels: UInt8[Tensor, "B 3 T H W"], unknown: Bool[Tensor, "B 1 T H W"]) -> Known:
        """What the model is given of pixels of which some are unknown."""
