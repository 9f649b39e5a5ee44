"""Packed == each sample alone, forward and backward, whatever the mix."""

import pytest
import torch
from torch import Tensor

from mmflow.batch import Conditioning
from mmflow.model.design import Design
from mmflow.model.mmdit import MMDiT
from tests.conftest import features, random_mmdit

PICTURE, WIDE, TALL, CLIP, LONG = (1, 8, 8), (1, 4, 12), (1, 16, 4), (4, 8, 8), (8, 4, 4)
MIXES = {
    "one picture": ([(PICTURE, 1)], [5]),
    "pictures, equal captions": ([(PICTURE, 3)], [4, 4, 4]),
    "pictures, captions of any length": ([(PICTURE, 4)], [1, 7, 3, 3]),
    "one clip": ([(CLIP, 1)], [2]),
    "pictures and clips": ([(PICTURE, 2), (CLIP, 2)], [5, 1, 2, 9]),
    "two shapes, equal captions": ([(PICTURE, 2), (WIDE, 2)], [4, 4, 4, 4]),
    "equal joint lengths from unequal parts": ([(PICTURE, 1), (WIDE, 1)], [3, 7]),
    "every aspect ratio": ([(PICTURE, 1), (WIDE, 2), (TALL, 1)], [3, 1, 6, 2]),
    "clips of two lengths": ([(CLIP, 1), (LONG, 2)], [1, 1, 8]),
    "five shapes": ([(PICTURE, 1), (WIDE, 1), (TALL, 1), (CLIP, 1), (LONG, 1)], [9, 8, 7, 6, 5]),
    "one shape in two groups": ([(PICTURE, 1), (CLIP, 1), (PICTURE, 1)], [4, 4, 2]),
    "more runs than the loop takes": ([(PICTURE, 20), (WIDE, 3)], [1 + i % 7 for i in range(23)]),
    "a group of none": ([(PICTURE, 2), (CLIP, 0)], [3, 5]),
}


def mix(groups: list[tuple[tuple[int, int, int], int]]) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(1)
    return tuple(torch.randn(count, 3, *shape, generator=g) for shape, count in groups)


def gradients(model: MMDiT, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}


def loss_of(outputs: tuple[Tensor, ...]) -> Tensor:
    """A sum of bent outputs, so that no gradient cancels."""
    return torch.cat([torch.sin(out).flatten() for out in outputs]).sum()


DESIGNS = {
    "plain": Design(),
    "dual": Design(dual_attention_blocks=1, position_table=9),
    "rotary": Design(dual_attention_blocks=1, rotary=True, activation="gelu"),
    "relative": Design(dual_attention_blocks=1, rotary=True, relative_values=True, head_width=32),
    "added": Design(temporal="added", rotary=True),
}


TELLING = (
    "pictures, equal captions",
    "pictures and clips",
    "five shapes",
    "one shape in two groups",
    "a group of none",
)
"""Dense, ragged, split and empty: one mix for every way that tokens go."""


@pytest.mark.parametrize(
    ("name", "design"), [(name, design) for design in DESIGNS for name in (MIXES if design == "plain" else TELLING)]
)
def test_packed_equals_alone(name: str, design: str) -> None:
    groups, lengths = MIXES[name]
    model = random_mmdit(design=DESIGNS[design])
    z, text = mix(groups), features(lengths)
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


def test_neighbours_do_not_matter_but_the_caption_does() -> None:
    model = random_mmdit()
    z, t = torch.randn(2, 3, 1, 8, 8), torch.tensor([0.3, 0.6])
    text = features([4, 6])
    (first,) = model((z,), t, Conditioning(text))
    changed = z.clone()
    changed[1] += 1
    (second,) = model((changed,), t, Conditioning(text))
    assert torch.allclose(first[0], second[0], atol=1e-6) and not torch.allclose(first[1], second[1], atol=1e-2)
    (third,) = model((z,), t, Conditioning(features([4, 6], seed=5)))
    assert not torch.allclose(first[0], third[0], atol=1e-2)


@pytest.mark.parametrize("design", ["plain", "added"])
def test_a_bag_of_none_still_reaches_every_parameter(design: str) -> None:
    model = random_mmdit(design=DESIGNS[design])
    (out,) = model((torch.zeros(0, 3, 1, 8, 8),), torch.zeros(0), Conditioning(features([])))
    out.sum().backward()
    assert out.shape == (0, 3, 1, 8, 8)
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("design", ["plain", "added"])
@pytest.mark.parametrize("shape", [PICTURE, CLIP])
def test_pictures_alone_and_clips_alone_reach_every_parameter(shape: tuple[int, int, int], design: str) -> None:
    model = random_mmdit(design=DESIGNS[design])
    (out,) = model((torch.randn(2, 3, *shape),), torch.rand(2), Conditioning(features([2, 3])))
    out.sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
