"""ImageReward (Xu et al. 2023, THUDM/ImageReward, Apache-2.0): BLIP reads the prompt while it looks at the picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmflow.encoders.hub import require
from mmflow.metrics.clip_network import label, load_tokenizer
from mmflow.metrics.features import Floats, Pictures
from mmflow.metrics.picture_input import PictureInput
from mmflow.metrics.pretrained import absent, check_layout, digest, read_weights
from mmflow.metrics.proxy import AbstractProxy

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the rewards in training (the publisher's ImageReward.py)."""
TOKENS = 35
HEAD = (1024, 128, 64, 16, 1)
HEAD_PLACES = (0, 2, 4, 6, 7)
"""Places of the head's linear layers among its dropouts; there are no activations between them."""
BATCH = 32


@dataclass(frozen=True)
class BlipSize:
    """The published network: ViT-L/16 and BERT-base with cross attention (med_config.json).

    Attributes:
        vision_width, vision_layers, vision_heads: of the picture tower.
        patch_size, image_size: in pixels.
        text_width, text_layers, text_heads: of the text tower.
        text_hidden: width inside its feed-forward layers.
        vocab_size: BERT's with two more.
    """

    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    patch_size: int = 16
    image_size: int = 224
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_hidden: int = 3072
    vocab_size: int = 30524


UNUSED = {"blip.vision_proj": "vision_width", "blip.text_proj": "text_width"}
"""Heads of BLIP's training that the publisher's file carries along, to 256 numbers."""
VISION = {
    "blip.visual_encoder.cls_token": "vision.embeddings.class_embedding",
    "blip.visual_encoder.pos_embed": "vision.embeddings.position_embedding",
    "blip.visual_encoder.patch_embed.proj.": "vision.embeddings.patch_embedding.",
    "blip.visual_encoder.norm.": "vision.post_layernorm.",
    "blip.visual_encoder.blocks.": "vision.encoder.layers.",
    "blip.text_encoder.": "text.",
    "mlp.layers.": "head.",
}
IN_BLOCK = {".norm1.": ".layer_norm1.", ".norm2.": ".layer_norm2.", ".attn.qkv.": ".self_attn.qkv."}
IN_BLOCK |= {".attn.proj.": ".self_attn.projection."}


def to_transformers(name: str) -> str:
    """The publisher's name of a tensor as this network has it."""
    for theirs, ours in VISION.items():
        if name.startswith(theirs):
            inside = name.removeprefix(theirs)
            if theirs.endswith("blocks."):
                for old, new in IN_BLOCK.items():
                    inside = inside.replace(old, new)
            return ours + inside
    return name


@final
class RewardNetwork(nn.Module):
    """Picture tower, text tower that attends to it, and a linear head.

    Args:
        size: of it.
    """

    def __init__(self, size: BlipSize) -> None:
        super().__init__()
        import transformers

        self.vision = transformers.BlipVisionModel(
            transformers.BlipVisionConfig(
                hidden_size=size.vision_width,
                intermediate_size=4 * size.vision_width,
                num_hidden_layers=size.vision_layers,
                num_attention_heads=size.vision_heads,
                image_size=size.image_size,
                patch_size=size.patch_size,
                layer_norm_eps=1e-6,
            )
        )
        self.text = transformers.models.blip.modeling_blip_text.BlipTextModel(
            transformers.BlipTextConfig(
                vocab_size=size.vocab_size,
                hidden_size=size.text_width,
                encoder_hidden_size=size.vision_width,
                intermediate_size=size.text_hidden,
                num_hidden_layers=size.text_layers,
                num_attention_heads=size.text_heads,
                max_position_embeddings=512,
                layer_norm_eps=1e-12,
                is_decoder=True,  # which is what gives its layers cross attention
            ),
            add_pooling_layer=False,
        )
        widths = (size.text_width, *HEAD)
        self.head = nn.ModuleDict(
            {str(place): nn.Linear(widths[i], widths[i + 1]) for i, place in enumerate(HEAD_PLACES)}
        )

    def forward(
        self, pixels: Float[Tensor, "B 3 S S"], tokens: Int[Tensor, "B L"], mask: Int[Tensor, "B L"]
    ) -> Float[Tensor, " B"]:
        """Rewards: what the head makes of the first token, brought to mean 0 and deviation 1."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        said = self.text(
            input_ids=tokens,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
            is_decoder=False,
        ).last_hidden_state[:, 0]
        for layer in self.head.values():
            said = layer(said)
        reward: Tensor = (said[:, 0] - MEAN) / STD
        return reward


def layout(size: BlipSize) -> dict[str, tuple[int, ...]]:
    """Every key and shape of the publisher's file."""
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in RewardNetwork(size).state_dict().items()}
    theirs = {from_transformers(name): shape for name, shape in ours.items()}
    for name, width in UNUSED.items():
        theirs |= {f"{name}.weight": (256, getattr(size, width)), f"{name}.bias": (256,)}
    return theirs


def from_transformers(name: str) -> str:
    """The other way."""
    for theirs, ours in VISION.items():
        if name.startswith(ours):
            inside = name.removeprefix(ours)
            if theirs.endswith("blocks."):
                for old, new in IN_BLOCK.items():
                    inside = inside.replace(new, old)
            return theirs + inside
    return name


def reward_network(weights: Mapping[str, Tensor], size: BlipSize, where: str) -> RewardNetwork:
    """The network with these weights.

    Raises:
        ValueError: if a key is missing, left over or of another shape.
    """
    expected = layout(size)
    check_layout(weights, expected, where)
    network = RewardNetwork(size)
    used = {name for name in expected if name.rsplit(".", 1)[0] not in UNUSED}
    network.load_state_dict({to_transformers(name): weights[name].float() for name in used}, strict=True)
    return network.eval().requires_grad_(False)


@final
class ImageReward(AbstractProxy):
    """ImageReward: about N(0, 1), more is better.

    Args:
        path: ImageReward.pt of the repository THUDM/ImageReward (zai-org/ImageReward), or its tensors as .safetensors.
        tokenizer: bert-base-uncased as a folder or repository id: the weights alone do not have it.
        size: of the network; the published one has the default.
    """

    def __init__(
        self, path: str, tokenizer: str = "google-bert/bert-base-uncased", size: BlipSize = BlipSize()
    ) -> None:
        self.path, self.tokenizer, self.size = path, tokenizer, size

    @property
    def name(self) -> str:
        return "image_reward"

    def identity(self) -> dict[str, Any]:
        return {
            "score": f"(head - {MEAN}) / {STD}",
            "network": label(self.path),
            "weights": digest(self.path),
            "tokenizer": label(self.tokenizer),
            "pictures": PictureInput(self.size.image_size).name(),
        }

    def absent(self) -> str | None:
        return absent(self.path, self.tokenizer)

    def to(self, device: str) -> None:
        _load(self.path, self.tokenizer, self.size)[0].to(device)

    @torch.inference_mode()
    def of_pictures(self, pictures: Pictures, prompts: Sequence[str]) -> Floats:
        network, tokenizer = _load(self.path, self.tokenizer, self.size)
        device = next(network.parameters()).device
        prepare, parts = PictureInput(self.size.image_size), []
        for start in range(0, len(pictures), BATCH):
            said = tokenizer(
                list(prompts[start : start + BATCH]),
                padding="max_length",
                truncation=True,
                max_length=TOKENS,
                return_tensors="pt",
            )
            pixels = prepare(pictures[start : start + BATCH]).to(device)
            parts.append(network(pixels, said["input_ids"].to(device), said["attention_mask"].to(device)).cpu())
        rewards: Floats = torch.cat(parts).double().numpy()
        return rewards


@lru_cache(maxsize=1)
def _load(path: str, tokenizer: str, size: BlipSize) -> tuple[RewardNetwork, Any]:
    require("transformers")
    words = load_tokenizer(tokenizer)
    if len(words) > size.vocab_size:
        raise ValueError(f"{tokenizer}: its vocabulary has {len(words)} tokens, the network {size.vocab_size}")
    return reward_network(read_weights(path), size, path), words
