"""Any picture network of transformers as features: its own pooled output, pictures prepared as its folder says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmflow.metrics.transformers_features import TransformersFeatures

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["tokens", "map"])
def test_features_are_the_network_s_own(kind: str, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    if kind == "tokens":
        small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        network = transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, **small))
    else:
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
        network = transformers.ResNetModel(config)
    network.eval().save_pretrained(tmp_path / "net")
    settings = {"size": {"height": 16, "width": 16}, "do_center_crop": False, "image_mean": [0.5] * 3}
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps({**settings, "image_std": [0.5] * 3}))
    features = TransformersFeatures(str(tmp_path / "net"))
    pixels = torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        expected = network(pixel_values=pixels).pooler_output.flatten(1)
    assert np.allclose(features(PICTURES), expected.numpy(), atol=1e-5)
    assert features.name == "net" and features.absent() is None and "stretched" in features.identity()["pictures"]
