"""Context parts: one token sequence each, with what several encoders say side by side on its channels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor

from mmflow.batch import TextFeatures
from mmflow.encoders.text_network import TokenStates
from mmflow.said import Said


@dataclass(frozen=True)
class Voice:
    """What one encoder contributes to a part.

    Attributes:
        seen: the samples, by number, whose captions it was given.
        said: of those, in that order; None if there are none.
        width: its channels.
        pooled_width: its pooled features.
    """

    seen: list[int]
    said: TokenStates | None
    width: int
    pooled_width: int

    @staticmethod
    def of(
        seen: list[int],
        ask: Callable[[list[int]], TokenStates],
        widths: tuple[int, int],
        before: Said | None,
        device: torch.device,
    ) -> "Voice":
        """What was said before is taken from there, and the encoder is asked for the rest of what it is given.

        Args:
            seen: the samples, by number, whose captions it is given.
            ask: its own words of some of them.
            widths: of its tokens and pooled features.
            before: what it said of the samples' captions before.
            device: of the result.
        """
        known = [] if before is None else [i for i in seen if before.lengths[i]]
        rest = [i for i in seen if i not in set(known)] if known else seen
        parts = [ask(rest)] if rest else []
        if before is not None and known:
            parts.append(_remembered(before, known, device))
        return Voice(rest + known, TokenStates.cat(parts) if parts else None, *widths)


def _remembered(before: Said, samples: list[int], device: torch.device) -> TokenStates:
    """Padded again, as the encoder itself gives them."""
    pieces = before.states.to(device).float().split(before.lengths.tolist())
    lengths = before.lengths[samples]
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    states = torch.nn.utils.rnn.pad_sequence([pieces[i] for i in samples], batch_first=True)
    return TokenStates(states, mask, before.pooled[samples].to(device).float())


@dataclass(frozen=True)
class Part:
    """One context part of B samples, padded."""

    states: Float[Tensor, "B L C"]
    mask: Bool[Tensor, "B L"]
    """The tokens that the model is given (host memory)."""
    pooled: Float[Tensor, "B V"]

    @staticmethod
    def of(voices: Sequence[Voice], num: int, device: torch.device, length: int | None = None) -> "Part":
        """Voices side by side on the channels; where one was not given the caption, its channels are zero.

        Args:
            voices: of the part's encoders.
            num: samples.
            device: of the result.
            length: None gives the model each caption's own tokens, and exactly one zero token where no encoder was
                given the caption; a number gives it so many of every caption, padding included, as SD3 has it.
        """
        longest = length or max([1, *(voice.said.states.shape[1] for voice in voices if voice.said is not None)])
        states = torch.zeros(num, longest, sum(voice.width for voice in voices), device=device)
        pooled = torch.zeros(num, sum(voice.pooled_width for voice in voices), device=device)
        mask = torch.zeros(num, longest, dtype=torch.bool)
        mask[:, 0] = True
        column = pooled_column = 0
        for voice in voices:
            if voice.said is not None:
                rows, end = torch.tensor(voice.seen), voice.said.states.shape[1]
                own = voice.said.states
                if length is None:
                    own = own * voice.said.mask[..., None].to(device)
                states[rows.to(device), :end, column : column + voice.width] = own
                pooled[rows.to(device), pooled_column : pooled_column + voice.pooled_width] = voice.said.pooled
                mask[rows, :end] |= voice.said.mask
            column, pooled_column = column + voice.width, pooled_column + voice.pooled_width
        return Part(states, torch.ones_like(mask) if length else mask, pooled)


def join(parts: Sequence[Part], width: int) -> TextFeatures:
    """Parts one after the other in each sample, every token filled up with zeros to the context's width."""
    states = torch.cat([F.pad(part.states, (0, width - part.states.shape[-1])) for part in parts], 1)
    mask = torch.cat([part.mask for part in parts], 1)
    # The places are found on the host, where the masks are, so that nothing waits for the device.
    places = mask.flatten().nonzero().flatten().to(states.device)
    return TextFeatures(
        context=states.flatten(0, 1)[places],
        lengths=torch.stack([part.mask.sum(1) for part in parts], 1),
        pooled=torch.cat([part.pooled for part in parts], 1),
    )
