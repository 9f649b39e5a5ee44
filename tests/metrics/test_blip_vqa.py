"""BLIP-VQA: the product over the things of a prompt, by the network's own generation."""

import numpy as np
import pytest
import torch

from mmflow.metrics.blip_vqa import BlipVqa, _load
from mmflow.metrics.picture_input import PictureInput

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "yes", "no", "a", "red", "green", "cup", "bench", "?", "and"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        BlipConfig,
        BlipForQuestionAnswering,
        BlipTextConfig,
        BlipVisionConfig,
        PreTrainedTokenizerFast,
    )

    folder = tmp_path_factory.mktemp("blip") / "tiny-blip"
    folder.mkdir()
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = BlipTextConfig(
        vocab_size=len(WORDS),
        **sizes,
        encoder_hidden_size=16,
        bos_token_id=4,
        pad_token_id=0,
        sep_token_id=3,
        eos_token_id=3,
    )
    vision = BlipVisionConfig(**sizes, image_size=32, patch_size=16)
    torch.manual_seed(0)
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    BlipForQuestionAnswering(config).save_pretrained(folder)
    return str(folder)


def test_a_score_is_the_product_over_things(path: str) -> None:
    judge = BlipVqa(path)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 20, 28, 3), dtype=np.uint8)
    both = judge.of_pictures(pictures, ["a red cup and a green bench"] * 3)
    one, two = (judge.of_pictures(pictures, [prompt] * 3) for prompt in ("a red cup", "a green bench"))
    assert np.allclose(both, one * two, rtol=1e-5) and np.all((both > 0) & (both < 1))
    assert np.allclose(judge.of_pictures(pictures[::-1], ["a red cup"] * 3)[::-1], one, rtol=1e-5)
    assert judge.of_pictures(pictures[:1], ["and"])[0] == 1.0  # names nothing, asks nothing


def test_a_question_is_answered_as_the_network_generates(path: str) -> None:
    """The first token that transformers' own generation scores."""
    network, tokenizer = _load(path)
    picture = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    pixels = PictureInput(32, resize="stretch")(picture)
    words = tokenizer(["a red cup?"], return_tensors="pt")
    seen = network.vision_model(pixel_values=pixels)[0]
    said = network.text_encoder(input_ids=words["input_ids"], encoder_hidden_states=seen)[0]
    out = network.text_decoder.generate(
        input_ids=torch.full((1, 1), network.decoder_start_token_id),
        encoder_hidden_states=said, encoder_attention_mask=words["attention_mask"],
        max_new_tokens=1, output_logits=True, return_dict_in_generate=True, do_sample=False,
    )  # fmt: skip
    yes, no = out.logits[0][0, [5, 6]].double().exp().tolist()
    assert BlipVqa(path).of_pictures(picture, ["a red cup"])[0] == pytest.approx(yes / (yes + no), rel=1e-4)


def test_what_is_absent_is_one_line(path: str) -> None:
    assert BlipVqa(path).absent() is None and BlipVqa("./none").absent() is not None
    assert "pip install spacy" in str(BlipVqa(path, phrases="en_core_web_none").absent())
    assert BlipVqa(path).identity()["phrases"] == "rules" and BlipVqa(path).name == "blip_vqa/tiny-blip"
