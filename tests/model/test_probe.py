"""What a probe reads: closed forms, the same numbers packed and dense, and nothing changed by looking."""

import math

import pytest
import torch

from mmflow.batch import Conditioning
from mmflow.model.attention import SdpaAttention
from mmflow.model.probe import Probe, Seen, probed
from mmflow.train.probes import AttentionProbes, summary
from tests.conftest import features, random_mmdit
from tests.model.rivals import RIVALS, random_rival, two_parts


def probe() -> Probe:
    made = Probe(SdpaAttention())
    made.blocks.append(Seen())
    return made


def test_even_attention_has_the_log_of_its_keys_and_collapsed_attention_has_none() -> None:
    even, sharp = probe(), probe()
    q = torch.zeros(1, 3, 2, 64)
    even.dense(q, torch.randn(1, 7, 2, 64), torch.randn(1, 7, 2, 64))
    assert even.blocks[0].max_logit == 0 and even.blocks[0].queries == 6
    assert even.blocks[0].mean_entropy == pytest.approx(math.log(7), rel=1e-5)
    keys = 80 * torch.eye(4, 64)[None, :, None].expand(1, 4, 2, 64)
    sharp.dense(keys, keys, keys)
    assert sharp.blocks[0].max_logit == pytest.approx(80 * 80 / 8)
    assert sharp.blocks[0].mean_entropy == pytest.approx(0, abs=1e-6)


def test_packed_samples_give_the_numbers_of_each_alone() -> None:
    lengths, keys = [3, 3, 5], [2, 4, 4]
    q, k = torch.randn(11, 2, 64), torch.randn(10, 2, 64)
    packed, alone = probe(), probe()
    out = packed.ragged(q, k, k, torch.tensor(lengths), torch.tensor(keys))
    for a, b in zip(q.split(lengths), k.split(keys), strict=True):
        alone.dense(a[None], b[None], b[None])
    assert packed.blocks[0].queries == alone.blocks[0].queries == 22
    assert packed.blocks[0].max_logit == pytest.approx(alone.blocks[0].max_logit)
    assert packed.blocks[0].entropy == pytest.approx(alone.blocks[0].entropy, rel=1e-5)
    assert torch.equal(out, SdpaAttention().ragged(q, k, k, torch.tensor(lengths), torch.tensor(keys)))


def test_logits_grow_with_the_weights_unless_they_are_normalised() -> None:
    """|q . k| / 8 of two vectors of RMS one is at most 64 / 8."""
    z, t, text = (torch.randn(2, 3, 1, 8, 8),), torch.rand(2), Conditioning(features([3, 4]))
    found = {}
    for qk_norm in (False, True):
        model = random_mmdit(qk_norm=qk_norm)
        for name, parameter in model.named_parameters():
            if "norm_" in name:
                parameter.data.fill_(1)
            elif ".qkv." in name:
                parameter.data *= 20
        before = model(z, t, text)
        with probed(model) as seen:
            assert torch.equal(model(z, t, text)[0], before[0])
        assert model.attention is seen.inner and len(seen.blocks) == 2
        found[qk_norm] = summary(seen.blocks, 1)
    assert found[True]["attention/max_logit_all"] <= 8.001 < 20 < found[False]["attention/max_logit_all"]
    assert found[True]["attention/entropy_last"] > found[False]["attention/entropy_last"]


@pytest.mark.parametrize("name", RIVALS)
def test_every_backbone_is_seen_block_by_block(name: str) -> None:
    model = random_rival(name, depth=2)
    with probed(model) as seen:
        model((torch.randn(2, 3, 1, 8, 8),), torch.rand(2), Conditioning(two_parts([3, 4])))
    assert len(seen.blocks) == 2 and all(block.queries > 0 and block.mean_entropy > 0 for block in seen.blocks)


def test_means_over_the_last_blocks() -> None:
    blocks = [Seen(float(n), 2.0 * n, 2) for n in range(1, 4)]
    assert summary(blocks, 2) == {
        "attention/max_logit_last": 2.5,
        "attention/entropy_last": 2.5,
        "attention/max_logit_all": 2.0,
        "attention/entropy_all": 2.0,
    }
    with pytest.raises(ValueError, match="last_blocks >= 1: 5, 0"):
        AttentionProbes(5, 0)
