"""BLIP-VQA as T2I-CompBench takes it: is each thing that the prompt names there (Huang et al. 2023, sec. 4.1)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, final

import numpy as np
import torch

from mmflow.encoders.hub import complete, explained, quiet, read_config
from mmflow.metrics.clip_network import label, library, load_tokenizer
from mmflow.metrics.features import Floats, Pictures
from mmflow.metrics.phrases import RULES, noun_phrases
from mmflow.metrics.picture_input import PictureInput
from mmflow.metrics.pretrained import absent, digest
from mmflow.metrics.proxy import AbstractProxy

BATCH = 32
ANSWERS = ("yes", "no")


@final
class BlipVqa(AbstractProxy):
    """Product, over the things that the prompt names, of P(yes) / (P(yes) + P(no)) for the question "THING?".

    Args:
        path: a BLIP for questions, as a folder or an id: Salesforce/blip-vqa-capfilt-large is the benchmark's network.
            The official evaluator shows it pictures of 480 pixels, its configuration says 384.
        phrases: what finds the things: `rules`, or a model of spaCy as the official evaluator has, en_core_web_sm.
    """

    def __init__(self, path: str, phrases: str = RULES) -> None:
        self.path, self.phrases = path, phrases

    @property
    def name(self) -> str:
        return f"blip_vqa/{label(self.path)}"

    def identity(self) -> dict[str, Any]:
        size = _size(self.path)
        return {
            "score": "product over things of P(yes) / (P(yes) + P(no)), first answer token",
            "network": label(self.path),
            "weights": digest(self.path),
            "phrases": self.phrases,
            "pictures": PictureInput(size, resize="stretch").name(),
        }

    def absent(self) -> str | None:
        reason = absent(self.path)
        if reason is None and self.phrases != RULES:
            try:
                noun_phrases("a cat", self.phrases)
            except ValueError as error:
                return str(error)
        return reason

    def to(self, device: str) -> None:
        _load(self.path)[0].to(device)

    @torch.inference_mode()
    def of_pictures(self, pictures: Pictures, prompts: Sequence[str]) -> Floats:
        asked = [
            (place, f"{thing}?") for place, prompt in enumerate(prompts) for thing in noun_phrases(prompt, self.phrases)
        ]
        scores = np.ones(len(prompts))  # a prompt that names nothing asks nothing
        prepare = PictureInput(_size(self.path), resize="stretch")
        for start in range(0, len(asked), BATCH):
            part = asked[start : start + BATCH]
            pixels = prepare(pictures[[place for place, _ in part]])
            for (place, _), yes in zip(part, self._yes(pixels, [question for _, question in part]), strict=True):
                scores[place] *= yes
        return scores

    def _yes(self, pixels: torch.Tensor, questions: Sequence[str]) -> list[float]:
        """P(yes) of each picture and question, against no."""
        network, tokenizer = _load(self.path)
        device = network.device
        words = tokenizer(list(questions), padding=True, return_tensors="pt").to(device)
        seen = network.vision_model(pixel_values=pixels.to(device))[0]
        attended = torch.ones(seen.shape[:-1], dtype=torch.long, device=device)
        said = network.text_encoder(
            input_ids=words["input_ids"],
            attention_mask=words["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=attended,
        )[0]
        start = torch.full((len(questions), 1), network.decoder_start_token_id, device=device)
        logits = network.text_decoder(
            input_ids=start, encoder_hidden_states=said, encoder_attention_mask=words["attention_mask"]
        ).logits[:, -1]
        both = logits[:, tokenizer.convert_tokens_to_ids(list(ANSWERS))].double()
        yes: list[float] = both.softmax(-1)[:, 0].tolist()
        return yes


def _size(path: str) -> int:
    return int(read_config(path).get("vision_config", {}).get("image_size", 384))


@lru_cache(maxsize=1)
def _load(path: str) -> tuple[Any, Any]:
    """The network and its tokenizer.

    Raises:
        ValueError: if they cannot be had, weights are missing, or the tokenizer has no "yes" or "no".
    """
    transformers = library()
    with explained(path), quiet(transformers):
        network, info = transformers.BlipForQuestionAnswering.from_pretrained(
            path, use_safetensors=True, output_loading_info=True
        )
    complete(info, path)
    tokenizer = load_tokenizer(path)
    if tokenizer.unk_token_id in tokenizer.convert_tokens_to_ids(list(ANSWERS)):
        raise ValueError(f"{path}: its tokenizer does not know the answers {' and '.join(ANSWERS)}")
    return network.float().eval().requires_grad_(False), tokenizer
