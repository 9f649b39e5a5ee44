"""Rotary positions: closed forms, and what they do to attention."""

import pytest
import torch

from mmflow.batch import Conditioning
from mmflow.model.design import Design
from mmflow.model.embed import rotary_angles
from mmflow.model.heads import Rotation
from tests.conftest import features, random_mmdit


def rotation(angles: torch.Tensor) -> Rotation:
    return Rotation(angles[:, None].cos(), angles[:, None].sin())


def test_a_product_depends_on_the_difference_of_two_places_only() -> None:
    turn = rotation(rotary_angles((3, 4, 5), 64))
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(64, generator=g), torch.randn(64, generator=g)
    qs, ks = (turn(x.expand(60, 1, 64))[:, 0].view(3, 4, 5, 64) for x in (q, k))

    def product(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        return float(qs[a] @ ks[b])

    for offset in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 2, 3)):
        t, y, x = offset
        assert product((0, 0, 0), offset) == pytest.approx(product((1, 1, 1), (1 + t, 1 + y, 1 + x)), abs=1e-4)
        assert product((0, 0, 0), offset) != pytest.approx(product((0, 0, 0), (0, 0, 0)), abs=1e-2)


def test_turning_keeps_lengths_and_is_the_complex_product() -> None:
    angles = rotary_angles((2, 3, 3), 64)
    x = torch.randn(18, 2, 64, generator=torch.Generator().manual_seed(0))
    turned = rotation(angles)(x)
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    a, b = x.chunk(2, -1)
    expected = torch.complex(a, b) * torch.polar(torch.ones_like(angles), angles)[:, None]
    assert torch.allclose(turned, torch.cat([expected.real, expected.imag], -1), atol=1e-5)


def test_a_picture_is_a_clip_s_first_frame_and_the_middle_does_not_turn() -> None:
    clip, picture = rotary_angles((4, 3, 5), 64), rotary_angles((1, 3, 5), 64)
    assert torch.equal(clip[:15], picture)
    assert torch.equal(picture[7], torch.zeros(32))
    assert picture[8].max() == 2.5 and picture[8][picture[8] > 0].min() == pytest.approx(1 / 16)


def test_places_reach_the_output_only_where_the_design_says_so() -> None:
    """Two tokens that change places: without any position they change places in the output, with rotation they do not
    (the third token tells them apart).
    """
    z = torch.randn(1, 3, 1, 2, 6, generator=torch.Generator().manual_seed(0))
    swapped = torch.cat([z[..., 2:4], z[..., :2], z[..., 4:]], -1)
    text = Conditioning(features([3]))
    for rotary in (False, True):
        model = random_mmdit(design=Design(rotary=rotary, position_table=3))
        model.position_table.zero_()
        (out,), (other,) = (model((x,), torch.tensor([0.5]), text) for x in (z, swapped))
        back = torch.cat([other[..., 2:4], other[..., :2], other[..., 4:]], -1)
        assert torch.allclose(out, back, atol=1e-5) is not rotary


def test_relative_values_gather_the_same_from_the_same_offset_wherever_the_token_is() -> None:
    """One token far right of another gives it what it would give anywhere; the other half of the heads is untouched."""
    angles = rotary_angles((1, 1, 8), 32)
    turn = Rotation(angles[:, None].cos(), angles[:, None].sin(), values=True)
    v = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    placed = turn.placed(v.expand(8, 4, 32))
    assert torch.equal(placed[:, 2:], v.expand(8, 4, 32)[:, 2:])
    two_to_the_right = turn.seen(placed.roll(-2, 0))[:6]
    assert torch.allclose(two_to_the_right, two_to_the_right[:1].expand(6, 4, 32), atol=1e-5)
    assert not torch.allclose(two_to_the_right[0, :2], v[:2], atol=0.1)
    assert torch.allclose(turn.seen(placed), v.expand(8, 4, 32), atol=1e-5)


def test_narrow_heads_begin_with_larger_norms_and_must_divide_the_width() -> None:
    narrow, wide = (random_mmdit(design=Design(head_width=w)) for w in (32, 64))
    for model, weight in ((narrow, 2**0.5), (wide, 1.0)):
        model.reset_parameters()
        norms = [p for n, p in model.named_parameters() if "norm_q" in n]
        assert norms and all(torch.allclose(p, torch.full_like(p, weight)) for p in norms)
    for design, words in (
        (Design(head_width=24), "multiple of 16"),
        (Design(head_width=96), "divides the width 128"),
        (Design(relative_values=True), "needs design.rotary"),
    ):
        with pytest.raises(ValueError, match=words):
            design.check(2, 2, None)
