"""Prompts are encoded once, in the order asked, and forgotten when there are too many."""

import torch

from mmflow.batch import TextFeatures
from mmflow.encoders.autoencoder import RgbAutoencoder
from mmflow.encoders.bundle import Encoders
from mmflow.encoders.cache import PromptCache
from mmflow.encoders.text import HashedWords


class Counting:
    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, prompts: list[str]) -> TextFeatures:
        self.calls.append(prompts)
        return HashedWords(4, 2).encode(prompts)


def same(a: TextFeatures, b: TextFeatures) -> bool:
    return torch.equal(a.context, b.context) and torch.equal(a.lengths, b.lengths) and torch.equal(a.pooled, b.pooled)


def test_each_prompt_is_encoded_once() -> None:
    cache, encode = PromptCache(), Counting()
    prompts = ["a red circle", "", "two squares", "a red circle"]
    for _ in range(2):
        assert same(cache(prompts, encode), HashedWords(4, 2).encode(prompts))
    assert same(cache(["two squares", "new"], encode), HashedWords(4, 2).encode(["two squares", "new"]))
    assert encode.calls == [["a red circle", "", "two squares"], ["new"]]
    assert len(cache([], encode)) == 0


def test_the_ones_used_last_are_kept() -> None:
    one = HashedWords(4, 2).encode(["word"])
    cache, encode = PromptCache(max_bytes=2 * (one.context.nbytes + one.pooled.nbytes)), Counting()
    for prompt in ("a", "b", "a", "c", "a", "b"):
        cache([prompt], encode)
    assert encode.calls == [["a"], ["b"], ["c"], ["b"]]
    assert same(cache(["p", "q", "r", "p"], encode), HashedWords(4, 2).encode(["p", "q", "r", "p"]))


def test_two_runs_share_nothing() -> None:
    one, other = (Encoders(RgbAutoencoder(), HashedWords(width, 2)) for width in (4, 8))
    assert one.encode_text(["a"]).context.shape[1] == 6 and other.encode_text(["a"]).context.shape[1] == 10
