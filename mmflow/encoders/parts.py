"""Context parts: one token sequence each, with what several encoders say side by side on its channels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float
from torch import Tensor

from mmflow.batch import TextFeatures
from mmflow.encoders.text_network import TokenStates


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
