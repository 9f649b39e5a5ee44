"""The paper's other backbones in small, all of whose weights are random."""

import torch
from torch import nn

from mmflow.batch import TextFeatures
from mmflow.model.crossdit import CrossDiT
from mmflow.model.dit import DiT
from mmflow.model.mmdit import AbstractBackbone
from mmflow.model.mmdit3 import MMDiT3
from mmflow.model.uvit import UViT
from tests.conftest import features

RIVALS = {"DiT": DiT, "CrossDiT": CrossDiT, "UViT": UViT, "MMDiT3": MMDiT3}
SIZES = {"in_channels": 3, "context_width": 16, "pooled_width": 8, "patch_size": 2, "base_size": 8}


def randomised(model: nn.Module, scale: float = 0.08) -> nn.Module:
    g = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g) * scale
    return model


def random_rival(name: str, depth: int = 2, **overrides: object) -> AbstractBackbone:
    model = randomised(RIVALS[name](depth, **{**SIZES, **overrides}))
    assert isinstance(model, AbstractBackbone)
    return model


def two_parts(lengths: list[int], seed: int = 0) -> TextFeatures:
    """Captions of these many tokens, of which the first part has one and the second the rest, if there is one; else
    the other way round.
    """
    text = features(lengths, seed=seed)
    first = [1 if i % 2 else max(n - 1, 1) for i, n in enumerate(lengths)]
    pairs = [[a, n - a] for a, n in zip(first, lengths, strict=True)]
    return TextFeatures(text.context, torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2), text.pooled)
