"""How many context tokens captions give, told without running any encoder: what planning needs."""

import math
from collections.abc import Callable, Sequence

from mmflow.encoders.joint_text import JointTextEncoder
from mmflow.encoders.pretrained_text import CLIP_TOKENS, TransformersEncoder
from mmflow.encoders.text import AbstractTextEncoder, HashedWords

PER_TOKEN = 4.0
"""Characters of a token of CLIP's or T5's vocabulary in English, about; other languages have fewer."""
PER_WORD = 5.5
"""Characters of a word with the space after it, about."""
MARKS = 2
"""Tokens that begin and end a caption."""


def context_tokens(text: AbstractTextEncoder) -> Callable[[int], int]:
    """A function from a caption's characters to its context tokens, about; never above what the encoder can give."""
    if isinstance(text, HashedWords):
        return lambda characters: min(text.max_words, max(1, math.ceil(characters / PER_WORD)))
    if isinstance(text, JointTextEncoder):
        limits = [CLIP_TOKENS] if text.clips else []
        limits += [] if text.t5 is None else [text.t5.max_length]
        if text.layout == "sd3":
            return lambda characters: sum(limits)
        return lambda characters: _of_parts(characters, limits)
    if isinstance(text, TransformersEncoder):
        return lambda characters: _of_parts(characters, [text.max_tokens])
    raise ValueError(f"how many tokens {type(text).__name__} makes of a caption is not known: add it to {__name__}")


def _of_parts(characters: int, limits: Sequence[int]) -> int:
    """Every part has the caption; of an empty one it is one zero token."""
    own = 1 if characters == 0 else MARKS + math.ceil(characters / PER_TOKEN)
    return sum(min(limit, own) for limit in limits)
