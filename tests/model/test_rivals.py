"""The paper's other backbones: packed == alone, their sizes, what they share with MM-DiT, and what they refuse."""

import pytest
import torch
from torch import nn

from mmflow.batch import Conditioning, Known, TextFeatures
from mmflow.model.mmdit import AbstractBackbone, MMDiT
from mmflow.model.uvit import Pyramid, UViT
from tests.conftest import features
from tests.model.rivals import RIVALS, SIZES, random_rival, randomised, two_parts
from tests.model.test_packing import MIXES, gradients, loss_of, mix

PICTURES = ["pictures, equal captions", "equal joint lengths from unequal parts", "every aspect ratio"]


@pytest.mark.parametrize("rival", RIVALS)
@pytest.mark.parametrize("name", PICTURES)
def test_packed_equals_alone(name: str, rival: str) -> None:
    groups, lengths = MIXES[name]
    model, z, text = random_rival(rival), mix(groups), two_parts(lengths)
    t = torch.linspace(0.05, 0.95, len(lengths))
    together = model(z, t, Conditioning(text))
    packed_gradients = gradients(model, loss_of(together))
    total, sample = torch.zeros(()), 0
    for group, out in zip(z, together, strict=True):
        for i in range(len(group)):
            (alone,) = model((group[i : i + 1],), t[sample : sample + 1], Conditioning(text.select([sample])))
            assert torch.allclose(alone, out[i : i + 1], atol=1e-5), f"sample {sample}"
            total, sample = total + loss_of((alone,)), sample + 1
    for parameter, gradient in gradients(model, total).items():
        scale = max(gradient.abs().max().item(), 1.0)
        assert torch.allclose(packed_gradients[parameter], gradient, atol=1e-5 * scale), parameter
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("rival", RIVALS)
def test_a_bag_of_none_still_reaches_every_parameter(rival: str) -> None:
    model = random_rival(rival)
    (out,) = model((torch.zeros(0, 3, 1, 8, 8),), torch.zeros(0), Conditioning(two_parts([])))
    out.sum().backward()
    assert out.shape == (0, 3, 1, 8, 8)
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert model((), torch.zeros(0), Conditioning(two_parts([]))) == ()


@pytest.mark.parametrize("rival", RIVALS)
def test_text_changes_the_output_once_the_first_weights_move(rival: str) -> None:
    model = RIVALS[rival](2, **SIZES)
    z, t = torch.randn(2, 3, 1, 8, 8), torch.tensor([0.3, 0.6])
    texts = [two_parts([4, 6], seed=seed) for seed in (0, 5)]
    pooled = texts[0].pooled
    texts[1] = TextFeatures(texts[1].context, texts[1].lengths, pooled)  # by its tokens alone
    for text in texts:
        assert torch.equal(model((z,), t, Conditioning(text))[0], torch.zeros_like(z)), "the first output is zero"
    g = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=g)
    outs = [model((z,), t, Conditioning(text))[0] for text in texts]
    assert (outs[0] - outs[1]).abs().max() > 1e-3


@pytest.mark.parametrize("rival", RIVALS)
def test_weights_are_set_by_reset(rival: str) -> None:
    with torch.device("meta"):
        model = RIVALS[rival](2, **SIZES)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    model.reset_parameters()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def stream(d: int, ratio: float, last: bool = False) -> int:
    hidden = round(ratio * d)
    modulated = linear(d, (2 if last else 6) * d) + linear(d, 3 * d) + 2 * 64
    return modulated if last else modulated + linear(d, d) + linear(d, hidden) + linear(hidden, d)


def cross(d: int) -> int:
    return linear(d, d) + linear(d, 2 * d) + linear(d, d) + 2 * 64


def ends(d: int, final: bool = True) -> int:
    """Embeddings of t, pooled text and context; final modulation."""
    own = linear(256, d) + linear(8, d) + 2 * linear(d, d) + linear(16, d)
    return own + (linear(d, 2 * d) if final else 0)


def patches(channels: int, area: int) -> int:
    return linear(3 * area, channels) + linear(channels, 3 * area)


@pytest.mark.parametrize(("depth", "ratio"), [(1, 4.0), (3, 2.5)])
def test_parameters_in_closed_form(depth: int, ratio: float) -> None:
    d, found = 64 * depth, {}
    for name in RIVALS:
        with torch.device("meta"):
            model = RIVALS[name](depth, **SIZES, mlp_ratio=ratio)
        found[name] = sum(p.numel() for p in model.parameters())
    three = stream(d, ratio) + 2 * stream(d, ratio)
    c = d // 2
    residual = 2 * 2 * c + 2 * (9 * c * c + c) + linear(d, 2 * c)
    assert found == {
        "DiT": depth * stream(d, ratio) + ends(d) + patches(d, 4),
        "CrossDiT": depth * (stream(d, ratio) + cross(d)) + ends(d) + patches(d, 4),
        "UViT": depth * (stream(d, ratio) + cross(d))
        + ends(d, final=False)
        + patches(c, 1)
        + 4 * residual
        + linear(c, d)
        + linear(d, c)
        + 2 * c,
        "MMDiT3": (depth - 1) * three
        + stream(d, ratio)
        + 2 * stream(d, ratio, last=True)
        + ends(d)
        + linear(16, d)
        + patches(d, 4),
    }


def mmdit_like(rival: AbstractBackbone, sets: dict[str, str]) -> MMDiT:
    """The MM-DiT with the rival's weights, its two streams taken from those named."""
    model, state = MMDiT(2, 3, 16, 8, 2, None, 8), dict(rival.state_dict())
    found = {}
    for name, target in model.state_dict().items():
        source = name.replace("context_embedding.", "context_embeddings.0.")
        for ours, theirs in sets.items():
            source = source.replace(f".{ours}.", f".{theirs}.")
        found[name] = state[source][: len(target)]  # a stream read a last time has its first two modulations only
    model.load_state_dict(found)
    return model


def test_dit_is_an_mmdit_with_one_weight_set() -> None:
    rival = random_rival("DiT")
    z, t, text = mix([((1, 8, 8), 2), ((1, 4, 12), 1)]), torch.rand(3), Conditioning(features([3, 5, 2]))
    both = mmdit_like(rival, {"visual": "both", "context": "both"})
    for mine, theirs in zip(rival(z, t, text), both(z, t, text), strict=True):
        assert mine.std() > 0.1
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_three_weight_sets_are_two_where_two_of_them_are_alike() -> None:
    rival = random_rival("MMDiT3")
    for name, parameter in rival.named_parameters():
        source = name.replace(".t5.", ".clip.").replace("context_embeddings.1.", "context_embeddings.0.")
        parameter.data.copy_(rival.get_parameter(source))
    z, t, text = mix([((1, 8, 8), 2), ((1, 4, 12), 1)]), torch.rand(3), Conditioning(two_parts([3, 5, 2]))
    two = mmdit_like(rival, {"context": "clip"})
    for mine, theirs in zip(rival(z, t, text), two(z, t, text), strict=True):
        assert mine.std() > 0.1
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    rival.blocks[0].t5.qkv.weight.data += 0.1
    assert (rival(z, t, text)[0] - two(z, t, text)[0]).abs().max() > 1e-2, "the third set is used"


@pytest.mark.parametrize("rival", RIVALS)
def test_what_rivals_refuse(rival: str) -> None:
    model = random_rival(rival)
    with pytest.raises(ValueError, match=rf"{rival} is a model of pictures.*4 latent frames.*clip_share 0.*MMDiT"):
        model.check_shape(4, 8, 8)
    text = Conditioning(two_parts([3]))
    with pytest.raises(ValueError, match="clip of 2 latent frames"):
        model((torch.randn(1, 3, 2, 8, 8),), torch.rand(1), text)
    with pytest.raises(ValueError, match=r"height 7.*6 and 8"):
        model.check_shape(1, 7, 8)
    assert model.check_shape(1, 8, 6) == 12
    z = torch.randn(1, 3, 1, 8, 8)
    known = (Known(z, torch.ones(1, 1, 1, 8, 8)),)
    with pytest.raises(ValueError, match=rf"{rival} has no input for known latents"):
        model((z,), torch.rand(1), Conditioning(text.text, known))
    with pytest.raises(ValueError, match=rf"{rival} needs depth >= 1 and mlp_ratio > 0, got 0 and 4"):
        RIVALS[rival](0, **SIZES)


def test_three_weight_sets_need_two_context_parts() -> None:
    with pytest.raises(ValueError, match=r"the text encoder gives 1.*JointTextEncoder.*HashedWords with parts 2"):
        random_rival("MMDiT3")((torch.randn(1, 3, 1, 8, 8),), torch.rand(1), Conditioning(features([3])))


@pytest.mark.parametrize("pyramid", [Pyramid(0, 1), Pyramid(1, 0), Pyramid(2, 1), Pyramid(5, 1)], ids=str)
def test_pyramids_that_cannot_be(pyramid: Pyramid) -> None:
    with pytest.raises(ValueError, match="patch_size that 2\\^levels divides"):
        UViT(2, **SIZES, pyramid=pyramid)


def test_two_levels_of_convolutions() -> None:
    model = randomised(UViT(2, **{**SIZES, "patch_size": 4}, pyramid=Pyramid(2, 1)), 0.05)
    z, text = torch.randn(2, 3, 1, 16, 8), Conditioning(features([3, 2]))
    assert model.check_shape(1, 16, 8) == 8
    (out,) = model((z,), torch.rand(2), text)
    assert out.shape == z.shape
    torch.sin(out).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("rival", RIVALS)
def test_bf16_autocast_is_near_fp32(rival: str) -> None:
    model = random_rival(rival)
    z, text = mix([((1, 8, 8), 2), ((1, 4, 12), 1)]), Conditioning(two_parts([2, 5, 3]))
    t = torch.tensor([0.2, 0.7, 0.5])
    exact = model(z, t, text)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(z, t, text)
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() < 0.05 * a.norm()
