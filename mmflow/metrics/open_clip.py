"""Weights in open_clip's layout (mlfoundations/open_clip, MIT), as HPS is published, into transformers' CLIPModel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmflow.metrics.pretrained import check_layout


@dataclass(frozen=True)
class OpenClipSize:
    """A model of open_clip's; the defaults are its ViT-H-14.json.

    Attributes:
        embed_dim: of the common space.
        image_size: pixels per side.
        patch_size: likewise.
        vision_width, vision_layers, vision_heads: of the picture tower.
        text_width, text_layers, text_heads: of the text tower.
        vocab_size: tokens.
    """

    embed_dim: int = 1024
    image_size: int = 224
    patch_size: int = 14
    vision_width: int = 1280
    vision_layers: int = 32
    vision_heads: int = 16
    text_width: int = 1024
    text_layers: int = 24
    text_heads: int = 16
    vocab_size: int = 49408
    context_length: int = 77


def layout(size: OpenClipSize) -> dict[str, tuple[int, ...]]:
    """Every key and shape of a checkpoint."""
    patches = (size.image_size // size.patch_size) ** 2
    v, t = size.vision_width, size.text_width
    keys: dict[str, tuple[int, ...]] = {
        "positional_embedding": (size.context_length, t),
        "text_projection": (t, size.embed_dim),
        "logit_scale": (),
        "token_embedding.weight": (size.vocab_size, t),
        **_norm("ln_final", t),
        "visual.class_embedding": (v,),
        "visual.positional_embedding": (patches + 1, v),
        "visual.proj": (v, size.embed_dim),
        "visual.conv1.weight": (v, 3, size.patch_size, size.patch_size),
        **_norm("visual.ln_pre", v),
        **_norm("visual.ln_post", v),
    }
    for tower, width, layers in (("visual.", v, size.vision_layers), ("", t, size.text_layers)):
        for i in range(layers):
            block = f"{tower}transformer.resblocks.{i}"
            keys |= {**_norm(f"{block}.ln_1", width), **_norm(f"{block}.ln_2", width)}
            keys |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
            keys |= _linear(f"{block}.attn.out_proj", width, width)
            keys |= _linear(f"{block}.mlp.c_fc", width, 4 * width) | _linear(f"{block}.mlp.c_proj", 4 * width, width)
    return keys


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


WHOLE = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
}
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
MODULES = {
    "ln_final": "text_model.final_layer_norm",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
}
IN_BLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
IN_BLOCK |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under transformers' names; query, key and value are apart there."""
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name in WHOLE:
            renamed[WHOLE[name]] = value
        elif name in TRANSPOSED:
            renamed[TRANSPOSED[name]] = value.T.contiguous()
        elif ".resblocks." in name:
            tower = "vision_model" if name.startswith("visual.") else "text_model"
            number, inside = name.split(".resblocks.")[1].split(".", 1)
            block = f"{tower}.encoder.layers.{number}"
            if inside.startswith("attn.in_proj"):
                for letter, part in zip("qkv", value.chunk(3), strict=True):
                    renamed[f"{block}.self_attn.{letter}_proj.{inside.removeprefix('attn.in_proj_')}"] = part
            else:
                module, kind = inside.rsplit(".", 1)
                renamed[f"{block}.{IN_BLOCK[module]}.{kind}"] = value
        else:
            module, kind = name.rsplit(".", 1)
            renamed[f"{MODULES[module]}.{kind}"] = value
    return renamed


def clip_model(weights: Mapping[str, Tensor], size: OpenClipSize, eos_token_id: int, where: str) -> Any:
    """A CLIPModel with these weights, in fp32.

    Raises:
        ValueError: if a key is missing, left over or of another shape.
    """
    import transformers

    expected = layout(size)
    check_layout(weights, expected, where)
    with torch.device("meta"):
        model = transformers.CLIPModel(_config(size, eos_token_id))
    renamed = to_transformers({name: weights[name] for name in expected})
    model.load_state_dict({name: value.float() for name, value in renamed.items()}, strict=True, assign=True)
    for tower in (model.text_model, model.vision_model):  # buffers that hold no weights were without memory
        ids = tower.embeddings.position_ids
        tower.embeddings.position_ids = torch.arange(ids.shape[1]).expand(1, -1)
    return model


def _config(size: OpenClipSize, eos_token_id: int) -> Any:
    import transformers

    shared = {"hidden_act": "gelu", "layer_norm_eps": 1e-5, "projection_dim": size.embed_dim}
    return transformers.CLIPConfig(
        text_config={
            "vocab_size": size.vocab_size,
            "hidden_size": size.text_width,
            "intermediate_size": 4 * size.text_width,
            "num_hidden_layers": size.text_layers,
            "num_attention_heads": size.text_heads,
            "max_position_embeddings": size.context_length,
            "bos_token_id": size.vocab_size - 2,
            "eos_token_id": eos_token_id,
            **shared,
        },
        vision_config={
            "hidden_size": size.vision_width,
            "intermediate_size": 4 * size.vision_width,
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_heads,
            "image_size": size.image_size,
            "patch_size": size.patch_size,
            **shared,
        },
        projection_dim=size.embed_dim,
    )
