"""Blocks of DiT and CrossDiT against diffusers' DiT and PixArt blocks, output and every gradient, by copied weights."""

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from mmflow.model.attention import SdpaAttention
from mmflow.model.block import Stream
from mmflow.model.crossdit import CrossDiTBlock
from mmflow.model.dit import DiTBlock
from mmflow.model.heads import CrossAttention
from mmflow.model.segments import Segments
from tests.model.rivals import randomised

D, B, N, L = 128, 2, 6, 5


class Given(nn.Module):
    """Stands for the reference's own embedding of t and class: gives on the vector that the block is given."""

    def forward(self, timestep: Tensor, *_: object, **__: object) -> Tensor:
        return timestep


def reference(norm: str, cross: bool) -> BasicTransformerBlock:
    block = BasicTransformerBlock(
        D,
        2,
        64,
        cross_attention_dim=D if cross else None,
        activation_fn="gelu-approximate",
        attention_bias=True,
        norm_elementwise_affine=False,
        norm_type=norm,
        norm_eps=1e-6,
        num_embeds_ada_norm=10,
    )
    if norm == "ada_norm_zero":
        block.norm1.emb = Given()
    else:
        block.scale_shift_table.data.zero_()
    return block


def linears(theirs: BasicTransformerBlock, ours: Stream) -> dict[str, tuple[list[nn.Linear], nn.Linear]]:
    attention = theirs.attn1
    return {
        "qkv": ([attention.to_q, attention.to_k, attention.to_v], ours.qkv),
        "proj": ([attention.to_out[0]], ours.proj),
        "mlp.0": ([theirs.ff.net[0].proj], ours.mlp[0]),
        "mlp.2": ([theirs.ff.net[2]], ours.mlp[2]),
    }


def compare(pairs: dict[str, tuple[list[nn.Linear], nn.Linear]], mine: Tensor, expected: Tensor) -> None:
    assert 0.3 < expected.std() < 3
    torch.testing.assert_close(mine, expected.reshape(mine.shape), atol=1e-5, rtol=0)
    torch.sin(expected).sum().backward()
    torch.sin(mine).sum().backward()
    for name, (theirs, own) in pairs.items():
        for kind in ("weight", "bias"):
            a = torch.cat([getattr(each, kind).grad for each in theirs])
            assert a.abs().max() > 0, name
            torch.testing.assert_close(getattr(own, kind).grad, a, atol=1e-5 * a.abs().max().item(), rtol=0)


def copied(pairs: dict[str, tuple[list[nn.Linear], nn.Linear]]) -> None:
    for theirs, own in pairs.values():
        for kind in ("weight", "bias"):
            getattr(own, kind).data.copy_(torch.cat([getattr(each, kind).data for each in theirs]))


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return tuple(torch.randn(*shape, generator=g) for shape in ((B, N, D), (B, L, D), (B, D)))


def test_dit_s_block(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, y = inputs
    theirs = reference("ada_norm_zero", cross=False)
    randomised(theirs)
    mine = DiTBlock(Stream(D, qk_norm=False, mlp_ratio=4))
    pairs = {**linears(theirs, mine.both), "modulation": ([theirs.norm1.linear], mine.both.modulation)}
    copied(pairs)
    out = mine(x.flatten(0, 1), y, Segments.of(torch.tensor([N] * B)), SdpaAttention())
    compare(pairs, out, theirs(x, timestep=y))


@pytest.mark.parametrize("padded", [False, True])
def test_pixart_s_block(inputs: tuple[Tensor, Tensor, Tensor], padded: bool) -> None:
    """PixArt shares one modulation over all blocks, ours has one in each: its vectors are given to both here."""
    x, context, y = inputs
    theirs, mine = reference("ada_norm_single", cross=True), None
    randomised(theirs)
    theirs.scale_shift_table.data.zero_()
    mine = CrossDiTBlock(Stream(D, qk_norm=False, mlp_ratio=4), CrossAttention(D, qk_norm=False))
    mine.visual.modulation = randomised(nn.Linear(D, 6 * D))
    cross = theirs.attn2
    pairs = {
        **linears(theirs, mine.visual),
        "cross.q": ([cross.to_q], mine.cross.q),
        "cross.kv": ([cross.to_k, cross.to_v], mine.cross.kv),
        "cross.proj": ([cross.to_out[0]], mine.cross.proj),
    }
    copied(pairs)
    lengths = [L, L - 2] if padded else [L, L]  # ours packs what theirs masks
    words = torch.cat([c[:n] for c, n in zip(context, lengths, strict=True)])
    segments = Segments.of(torch.tensor([N] * B)), Segments.of(torch.tensor(lengths))
    out = mine(x.flatten(0, 1), words, y, *segments, SdpaAttention())
    mask = torch.tensor([[0.0 if i < n else -1e9 for i in range(L)] for n in lengths])[:, None]
    vectors = mine.visual.modulation(torch.nn.functional.silu(y))
    expected = theirs(x, encoder_hidden_states=context, encoder_attention_mask=mask, timestep=vectors)
    compare(pairs, out, expected)
