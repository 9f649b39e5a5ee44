"""Fixtures that several rooms share: tiny networks and features, nothing downloaded."""

import os

import pytest
import torch

from mmflow.batch import TextFeatures
from mmflow.model.mmdit import MMDiT


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """Two cores are shared by two processes of tests; a debugger (`-n 0`) has them alone."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def features(lengths: list[int], context_width: int = 16, pooled_width: int = 8, seed: int = 0) -> TextFeatures:
    """Random text features of captions with these many tokens."""
    g = torch.Generator().manual_seed(seed)
    return TextFeatures(
        torch.randn(sum(lengths), context_width, generator=g),
        torch.tensor(lengths, dtype=torch.int64).reshape(-1, 1),
        torch.randn(len(lengths), pooled_width, generator=g),
    )


def random_mmdit(depth: int = 2, **overrides: object) -> MMDiT:
    """A small MM-DiT all of whose weights are random, so that nothing hides behind a zero."""
    arguments: dict = {
        "in_channels": 3,
        "context_width": 16,
        "pooled_width": 8,
        "patch_size": 2,
        "video_patch_size": (2, 2, 2),
        "base_size": 8,
    }
    model = MMDiT(depth, **{**arguments, **overrides})
    g = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g) * 0.08
    return model


@pytest.fixture
def mmdit() -> MMDiT:
    return random_mmdit()
