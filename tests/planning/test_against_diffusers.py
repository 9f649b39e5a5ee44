"""Memory per token beside the reference implementation's, both followed on tensors without storage."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from mmflow.batch import Conditioning, TextFeatures
from mmflow.model.mmdit import MMDiT
from mmflow.planning.memory import _bytes
from mmflow.train.parallel import Parallel, lay_out

DEPTH, SAMPLES, SIDE, WORDS, CONTEXT, POOLED = 4, 2, 32, 77, 64, 32
LESS = 0.25


def kept(network: nn.Module, forward: Callable[[], Any], dtype: torch.dtype | None) -> int:
    """Bytes kept for the backward when the forward pass ends, beside the weights."""
    tracker = MemTracker()
    tracker.track_external(network)
    with tracker, torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        out = forward()
        held = _bytes(tracker, "current", "Total") - _bytes(tracker, "current", "PARAM")
    del out
    return held


def build(recompute: str, mode: FakeTensorMode) -> tuple[tuple[nn.Module, Any], tuple[nn.Module, Any]]:
    with mode, torch.device("cpu"):
        ours = MMDiT(DEPTH, 16, CONTEXT, POOLED, 2, None, SIDE)
        theirs = SD3Transformer2DModel(
            sample_size=SIDE,
            patch_size=2,
            in_channels=16,
            num_layers=DEPTH,
            num_attention_heads=DEPTH,
            attention_head_dim=64,
            joint_attention_dim=CONTEXT,
            caption_projection_dim=64 * DEPTH,
            pooled_projection_dim=POOLED,
            out_channels=16,
            qk_norm="rms_norm",
        ).train()
        z, t = torch.empty(SAMPLES, 16, SIDE, SIDE), torch.empty(SAMPLES)
        context, pooled = torch.empty(SAMPLES, WORDS, CONTEXT), torch.empty(SAMPLES, POOLED)
    lay_out(ours, Parallel(recompute=recompute), None, None)  # type: ignore[arg-type]
    if recompute == "block":
        theirs.enable_gradient_checkpointing()
    text = TextFeatures(context.flatten(0, 1), torch.full((SAMPLES, 1), WORDS), pooled)
    return (
        (ours, lambda: ours((z[:, :, None],), t, Conditioning(text))),
        (theirs, lambda: theirs(z, context, pooled, t, return_dict=False)),
    )


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_quarter_less_is_kept_per_token(dtype: torch.dtype | None) -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mine, reference = (kept(*side, dtype) for side in build("none", mode))
    assert mine <= (1 - LESS) * reference


def test_with_blocks_computed_again_it_is_as_much_less() -> None:
    mine, reference = (kept(*side, None) for side in build("block", FakeTensorMode(allow_non_fake_inputs=True)))
    assert mine <= (1 - LESS) * reference
