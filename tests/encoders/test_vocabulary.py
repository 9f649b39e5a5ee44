"""CLIP's whole vocabulary makes the tokens that its published models were trained on."""

from pathlib import Path

import pytest

from tests.encoders.published import clip_tokenizer, whole_merges


@pytest.mark.slow
def test_the_whole_vocabulary_has_the_published_numbers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    clip_tokenizer(tmp_path, whole_merges())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("a photo of a dog").input_ids == [49406, 320, 1125, 539, 320, 1929, 49407]
