"""Captions to context tokens and pooled features."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import final

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from mmflow.batch import TextFeatures
from mmflow.encoders.identity import Identity
from mmflow.said import Said

WORDS = re.compile(r"\w+|[^\w\s]")


class AbstractTextEncoder(ABC):
    """One frozen text encoder or several that speak together; constructors load no weights."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The encoders (E of them) that training can drop one by one."""

    @property
    @abstractmethod
    def context_width(self) -> int:
        """Width of a context token."""

    @property
    @abstractmethod
    def pooled_width(self) -> int:
        """Width of the pooled features."""

    @property
    def hears_empty(self) -> bool:
        """Whether an empty caption is encoded like any other."""
        return False

    @abstractmethod
    def load(self, names: Sequence[str] | None = None) -> None:
        """Reads the weights now, so that what is wrong with them is said before anything is trained.

        Args:
            names: of the encoders to load; None is all.

        Raises:
            ValueError: if they cannot be had, or are not what the configuration says of them.
        """

    @abstractmethod
    def identity(self, name: str, whole: bool = False) -> Identity:
        """What the words of one encoder depend on; `whole` reads every byte of the weights for their digest."""

    @abstractmethod
    def say(self, name: str, captions: list[str], device: torch.device | str = "cpu") -> Said:
        """What one encoder says of captions, at least one and none of them null: what a cache keeps."""

    @abstractmethod
    def encode(
        self,
        captions: list[str],
        kept: Bool[Tensor, "B E"] | None = None,
        device: torch.device | str = "cpu",
        said: Mapping[str, Said] | None = None,
    ) -> TextFeatures:
        """Features of each caption, fp32, on `device`.

        Args:
            captions: texts; an empty one gives the null state.
            kept: which encoders see each caption; None is all. What none sees is in the null state.
            device: of the model, where encoders work that are not told otherwise, and of the features.
            said: what encoders said of the captions before, by name: they are not asked again.
        """

    def null(self, num: int) -> TextFeatures:
        """The unconditional state, the same in training and guidance: every part null, pooled features zero."""
        return self.encode([""] * num, torch.zeros(num, len(self.names), dtype=torch.bool))


@lru_cache(maxsize=100_000)
def word_vector(word: str, width: int) -> Tensor:
    """A fixed vector from N(0, 1), a pure function of the word."""
    digest = hashlib.blake2b(word.encode(), digest_size=16, person=b"mmflow word").digest()
    rng = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return torch.as_tensor(rng.standard_normal(width, dtype=np.float32))


@final
class HashedWords(AbstractTextEncoder):
    """Every word is a fixed random vector beside the sinusoid of its place: an encoder that needs no download.

    It knows no spelling and no meaning, so each word must be learned from the captions; an unknown word is a vector
    that the model has not met. Pooled features are the mean of the word vectors, scaled
    back to unit spread. The null state is one zero token and zero pooled features.

    Args:
        width: numbers per word.
        position_width: numbers that encode the word's place, even.
        max_words: captions are cut after this many words.
        parts: context parts that say the caption, each in word vectors of its own. 2 stands in for CLIP and T5 where a
            model has weights for each.
    """

    def __init__(self, width: int = 96, position_width: int = 32, max_words: int = 77, parts: int = 1) -> None:
        if position_width % 2 or min(width, position_width, max_words, parts) < 1:
            raise ValueError(
                f"need an even position_width and positive sizes, got {width}, {position_width}, {max_words}, {parts}"
            )
        self.width, self.position_width, self.max_words, self.parts = width, position_width, max_words, parts

    @property
    def names(self) -> tuple[str, ...]:
        return ("words",)

    @property
    def context_width(self) -> int:
        return self.width + self.position_width

    @property
    def pooled_width(self) -> int:
        return self.width

    def load(self, names: Sequence[str] | None = None) -> None:
        """There is nothing to load."""

    def identity(self, name: str, whole: bool = False) -> Identity:
        sizes = {"width": self.width, "position_width": self.position_width, "max_words": self.max_words}
        return {"kind": type(self).__name__, **sizes}

    def say(self, name: str, captions: list[str], device: torch.device | str = "cpu") -> Said:
        features = self.encode(captions, device=device)
        return Said(features.context, features.lengths[:, 0], features.pooled)

    def _positions(self, num: int) -> Tensor:
        frequencies = 0.5 ** torch.arange(self.position_width // 2, dtype=torch.float32)
        angles = torch.arange(num, dtype=torch.float32)[:, None] * frequencies * (np.pi / 2)
        return torch.cat([angles.sin(), angles.cos()], 1)

    def encode(
        self,
        captions: list[str],
        kept: Bool[Tensor, "B E"] | None = None,
        device: torch.device | str = "cpu",
        said: Mapping[str, Said] | None = None,
    ) -> TextFeatures:
        tokens, pooled = [], []
        before = said["words"] if said else None
        seen = [True] * len(captions) if kept is None else kept[:, 0].tolist()
        for i, (caption, is_seen) in enumerate(zip(captions, seen, strict=True)):
            if before is not None and is_seen and before.lengths[i]:
                one = before.one(i).to("cpu")
                tokens.append(one.states.float())
                pooled.append(one.pooled[0].float())
                continue
            words = WORDS.findall(caption.casefold())[: self.max_words] if is_seen else []
            if not words:
                tokens += [torch.zeros(1, self.context_width)] * self.parts
                pooled.append(torch.zeros(self.pooled_width))
                continue
            places = self._positions(len(words))
            for part in range(self.parts):
                names = [f"{word} {part}" if part else word for word in words]
                vectors = torch.stack([word_vector(name, self.width) for name in names])
                tokens.append(torch.cat([vectors, places], 1))
            first = tokens[-self.parts][:, : self.width]
            pooled.append(first.sum(0) / len(words) ** 0.5)
        return TextFeatures(
            context=torch.cat(tokens) if tokens else torch.zeros(0, self.context_width),
            lengths=torch.tensor([[len(token)] for token in tokens], dtype=torch.int64).reshape(-1, self.parts),
            pooled=torch.stack(pooled) if pooled else torch.zeros(0, self.pooled_width),
        ).to(device)
