"""Hashed words: the same vectors everywhere, a null state, and order in the context only."""

import subprocess
import sys

import pytest
import torch

from mmflow.batch import TextFeatures
from mmflow.encoders.text import HashedWords, word_vector

CAPTION = "a red circle left of a blue square"


def equal(a: TextFeatures, b: TextFeatures) -> bool:
    return (
        torch.equal(a.context, b.context) and torch.equal(a.lengths, b.lengths) and torch.allclose(a.pooled, b.pooled)
    )


def test_another_process_gives_the_same() -> None:
    code = (
        "from mmflow.encoders.text import HashedWords; "
        f"f = HashedWords(4, 2).encode([{CAPTION!r}]); print(f.context.tolist(), f.pooled.tolist())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    features = HashedWords(4, 2).encode([CAPTION])
    assert printed.strip() == f"{features.context.tolist()} {features.pooled.tolist()}"


def test_vectors_are_these() -> None:
    """Another hash would make every trained model illiterate: it must be on purpose."""
    assert word_vector("circle", 3).tolist() == pytest.approx([0.414284, -0.475708, -0.451114], abs=1e-6)


def test_a_word_is_its_vector_beside_its_place() -> None:
    encoder = HashedWords()
    features = encoder.encode(["red Red, blue"])
    assert features.lengths.tolist() == [[4]] and features.context.shape == (4, encoder.context_width) == (4, 128)
    words, places = features.context.split([96, 32], 1)
    assert torch.equal(words[0], words[1]) and torch.equal(words[0], word_vector("red", 96))
    assert torch.equal(words[2], word_vector(",", 96)) and torch.equal(words[3], word_vector("blue", 96))
    half = torch.arange(4) * torch.pi / 2
    assert torch.allclose(places[:, 0], half.sin(), atol=1e-6) and torch.allclose(places[:, 16], half.cos(), atol=1e-6)
    assert torch.pdist(encoder.encode(["x " * 77]).context).min() > 1e-3, "no two places are alike"


def test_pooled_is_the_scaled_mean_of_the_words() -> None:
    pooled = HashedWords().encode(["red blue"]).pooled[0]
    assert torch.allclose(pooled, (word_vector("red", 96) + word_vector("blue", 96)) / 2**0.5)


def test_unknown_words_are_words() -> None:
    features = HashedWords().encode(["flumox", "映画", "naïve Über-Größe"])
    assert features.lengths.flatten().tolist() == [1, 1, 4] and len(torch.unique(features.context, dim=0)) == 6
    large = torch.stack([word_vector(f"word{n}", 96) for n in range(500)])
    assert large.mean().item() == pytest.approx(0, abs=0.02) and large.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("caption", ["", "   \n"])
def test_an_empty_caption_is_the_null_state(caption: str) -> None:
    encoder = HashedWords()
    assert equal(encoder.encode([caption, caption]), encoder.null(2))
    assert encoder.null(1).lengths.tolist() == [[1]] and encoder.null(1).context.abs().sum() == 0


def test_the_order_of_words_is_in_the_context_and_not_in_the_pooled_features() -> None:
    one, two = (HashedWords().encode([c]) for c in (CAPTION, "a blue square left of a red circle"))
    assert torch.allclose(one.pooled, two.pooled, atol=1e-5) and not torch.allclose(one.context, two.context)


def test_long_captions_are_cut() -> None:
    encoder = HashedWords(max_words=3)
    assert equal(encoder.encode(["one two three four five"]), encoder.encode(["one two three"]))


def test_a_caption_does_not_depend_on_its_neighbours() -> None:
    encoder, captions = HashedWords(), [CAPTION, "", "a cross", CAPTION]
    together = encoder.encode(captions)
    assert equal(together, TextFeatures.cat([encoder.encode([caption]) for caption in captions]))
    assert equal(together.select([2]), encoder.encode(["a cross"]))
    none = encoder.encode([])
    assert (len(none), none.context.shape, none.pooled.shape) == (0, (0, 128), (0, 96))


@pytest.mark.parametrize("arguments", [(0, 32, 77), (96, 31, 77), (96, 0, 77), (96, 32, 0)])
def test_sizes_out_of_range(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(
        ValueError, match="even position_width and positive sizes, got " + ", ".join(map(str, arguments))
    ):
        HashedWords(*arguments)


def test_two_parts_say_the_caption_twice_in_words_of_their_own() -> None:
    one, two = HashedWords(), HashedWords(parts=2)
    captions = ["a red circle", "", "blue"]
    features, plain = two.encode(captions), one.encode(captions)
    assert features.lengths.tolist() == [[3, 3], [1, 1], [1, 1]]
    assert torch.equal(features.pooled, plain.pooled)
    first, second = features.context[:3], features.context[3:6]
    assert torch.equal(first, plain.context[:3]) and torch.equal(first[:, 96:], second[:, 96:])
    assert (first[:, :96] * second[:, :96]).sum(1).abs().max() < 50 < (first[:, :96] ** 2).sum(1).min()
    assert torch.equal(features.context[6:8], torch.zeros(2, 128))
    assert two.null(2).lengths.tolist() == [[1, 1], [1, 1]]
