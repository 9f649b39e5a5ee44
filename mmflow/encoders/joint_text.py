"""CLIP-L, CLIP-G and T5 as one text encoder, the paper's (appendix B.2), or any subset of them."""

from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch
from jaxtyping import Bool
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mmflow.batch import TextFeatures
from mmflow.encoders.identity import Identity
from mmflow.encoders.parts import Part, Voice, join
from mmflow.encoders.pretrained_text import CLIP_TOKENS, ClipEncoder, T5Encoder, TextLayout
from mmflow.encoders.text import AbstractTextEncoder
from mmflow.encoders.text_network import TokenStates
from mmflow.said import Said

EncoderName = Literal["clip_l", "clip_g", "t5"]


@final
class JointTextEncoder(AbstractTextEncoder):
    """Two context parts: the CLIPs' tokens side by side on the channels, then T5's; both filled up with zeros to the
    wider one. Pooled features are those of the CLIPs, side by side.

    An encoder that is dropped leaves zeros in its channels and pooled features; a part whose encoders are all dropped
    is one zero token. Padding is left out after the encoders ran; within T5 it is masked, for CLIP it makes no
    difference. With `layout: sd3` it is attended everywhere, each caption has 77 tokens and T5's `max_length`, and what
    is dropped is zeros of that length, as in the released models.

    Args:
        clip_l: SD3's is CLIP ViT-L/14, unprojected.
        clip_g: SD3's is OpenCLIP ViT-bigG/14, projected.
        t5: SD3's is T5-v1.1-XXL.
        layout: `packed`, or `sd3` for models that are to be, or were, trained as the released ones.
        empty_caption: `null` zeros, or `encoded` like any other, as the released models take their negative prompt.
        absent: encoders that the model was trained with but that are left out now, T5 above all: they are not loaded
            and their null state stands for them.
    """

    def __init__(
        self,
        clip_l: ClipEncoder | None = None,
        clip_g: ClipEncoder | None = None,
        t5: T5Encoder | None = None,
        layout: TextLayout = "packed",
        empty_caption: Literal["null", "encoded"] = "null",
        absent: Sequence[EncoderName] = (),
    ) -> None:
        self.clips = {name: clip for name, clip in (("clip_l", clip_l), ("clip_g", clip_g)) if clip is not None}
        self.t5, self.layout, self.empty_caption, self.absent = t5, layout, empty_caption, tuple(absent)
        if not self.names:
            raise ValueError("a joint text encoder needs at least one of clip_l, clip_g and t5")
        if not set(self.absent) < set(self.names):
            raise ValueError(f"absent: {list(absent)} must be some, and not all, of the encoders {list(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.clips, *(("t5",) if self.t5 is not None else ()))

    @property
    def context_width(self) -> int:
        return max(sum(clip.width for clip in self.clips.values()), 0 if self.t5 is None else self.t5.width)

    @property
    def pooled_width(self) -> int:
        return sum(clip.width for clip in self.clips.values())

    @property
    def hears_empty(self) -> bool:
        return self.empty_caption == "encoded"

    def load(self, names: Sequence[str] | None = None) -> None:
        for missing in self.absent:
            rank_zero_warn(f"text encoder {missing} is absent: its null state stands for what it would say")
        for name in self.names if names is None else names:
            if name not in self.absent:
                self._encoder(name).load()

    def identity(self, name: str, whole: bool = False) -> Identity:
        return {**self._encoder(name).identity(whole), "layout": self.layout}

    def say(self, name: str, captions: list[str], device: torch.device | str = "cpu") -> Said:
        states = self._encoder(name).states(captions, torch.device(device), self.layout)
        return states.packed(whole=self.layout == "sd3")

    def _encoder(self, name: str) -> ClipEncoder | T5Encoder:
        encoder = self.t5 if name == "t5" else self.clips[name]
        assert encoder is not None
        return encoder

    def encode(
        self,
        captions: list[str],
        kept: Bool[Tensor, "B E"] | None = None,
        device: torch.device | str = "cpu",
        said: Mapping[str, Said] | None = None,
    ) -> TextFeatures:
        where, before = torch.device(device), said or {}
        voices = {
            name: self._voice(name, captions, self._seen(name, captions, kept), before.get(name), where)
            for name in self.names
        }
        is_padded, parts = self.layout == "sd3", []
        if self.clips:
            clips = [voices[name] for name in self.clips]
            parts.append(Part.of(clips, len(captions), where, CLIP_TOKENS if is_padded else None))
        if self.t5 is not None:
            parts.append(Part.of([voices["t5"]], len(captions), where, self.t5.max_length if is_padded else None))
        return join(parts, self.context_width)

    def _seen(self, name: str, captions: list[str], kept: Bool[Tensor, "B E"] | None) -> list[int]:
        """The captions that one encoder is given; it is not run on those that are dropped."""
        column = self.names.index(name)
        return [
            i
            for i, caption in enumerate(captions)
            if name not in self.absent
            and (kept is None or bool(kept[i, column]))
            and (self.hears_empty or caption.strip())
        ]

    def _voice(
        self, name: str, captions: list[str], seen: list[int], before: Said | None, device: torch.device
    ) -> Voice:
        encoder = self._encoder(name)
        widths = encoder.width, 0 if name == "t5" else encoder.width

        def ask(samples: list[int]) -> TokenStates:
            return encoder.states([captions[i] for i in samples], device, self.layout)

        return Voice.of(seen, ask, widths, before, device)
