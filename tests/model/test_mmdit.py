"""MM-DiT: sizes, positions, patches, and a picture as a clip's first frame."""

import pytest
import torch

from mmflow.batch import Conditioning, Known
from mmflow.model.design import Design
from mmflow.model.embed import axis_sinusoid, centred, over_time, plane_positions, time_sinusoid
from mmflow.model.mmdit import MMDiT
from mmflow.model.patchify import from_patches, to_patches
from tests.conftest import features, random_mmdit


def count(**arguments: object) -> int:
    with torch.device("meta"):
        model = MMDiT(**{"video_patch_size": None, **arguments})  # type: ignore[arg-type]
    return sum(p.numel() for p in model.parameters())


def test_parameters_of_the_published_sizes() -> None:
    assert count(depth=24, qk_norm=False) == 2_028_328_000
    assert count(depth=38) == 8_056_627_520
    assert count(depth=24, design=Design(dual_attention_blocks=13)) == 2_243_171_520
    assert count(depth=18, qk_norm=False) == pytest.approx(856.16e6, rel=1e-5)


def test_width_and_heads_follow_depth() -> None:
    model = random_mmdit(depth=3)
    assert model.width == 192 and model.blocks[0].visual.num_heads == 3


def test_the_last_context_stream_is_read_only() -> None:
    names = dict(random_mmdit().named_parameters())
    assert "blocks.0.context.proj.weight" in names and "blocks.1.context.proj.weight" not in names
    assert names["blocks.1.context.modulation.weight"].shape == (2 * 128, 128)


def test_the_first_output_is_zero_and_weights_are_set_by_reset() -> None:
    with torch.device("meta"):
        model = MMDiT(2, 3, 16, 8, 2, (2, 2, 2), 8)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    model.reset_parameters()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    out = model((torch.randn(1, 3, 1, 8, 8),), torch.rand(1), Conditioning(features([3])))
    assert torch.equal(out[0], torch.zeros(1, 3, 1, 8, 8))


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 2, 2), (4, 1, 2)])
def test_patches_round_trip(patch: tuple[int, int, int]) -> None:
    z = torch.randn(2, 3, 4, 6, 8)
    tokens = to_patches(z, patch)
    channels_first = tokens.reshape(2, -1, 3, patch[0] * patch[1] * patch[2])
    channels_last = channels_first.transpose(2, 3).reshape(tokens.shape)
    assert torch.equal(from_patches(channels_last, (4, 6, 8), patch), z)


def test_patch_features_are_in_the_order_of_a_convolution() -> None:
    z = torch.randn(1, 3, 1, 4, 4)
    conv = torch.nn.Conv2d(3, 5, 2, 2)
    mine = torch.nn.functional.linear(to_patches(z, (1, 2, 2)), conv.weight.flatten(1), conv.bias)
    assert torch.allclose(mine, conv(z[:, :, 0]).flatten(2).transpose(1, 2), atol=1e-6)


def test_positions_of_released_tables() -> None:
    assert torch.equal(centred(16, 16), torch.arange(16.0))
    table = centred(192, 64)
    assert [table[i].item() for i in (0, 64, 127, 191)] == [-16.0, 0.0, 15.75, 31.75]


def test_positions_of_released_tables_of_384_patches() -> None:
    """SD3.5-medium: p / 4 - 40, whose middle 64 are those of 1024 x 1024 pixels in every table."""
    table = centred(384, 64)
    assert torch.equal(table, torch.arange(384.0) / 4 - 40)
    assert torch.equal(table[160:224], centred(64, 64)) and torch.equal(table[96:288], centred(192, 64))


@pytest.mark.parametrize("pixels", [256, 512, 1024])
@pytest.mark.parametrize("shape", [(1.0, 1.0), (0.5, 2.0), (1.5, 0.75)])
def test_the_grid_of_every_aspect_ratio_is_the_paper_s(pixels: int, shape: tuple[float, float]) -> None:
    """pos(p) = (p - (h_max - s) / 2) 256 / S on the grid of the largest sides, cropped in its middle."""
    s, largest = pixels // 16, 2 * pixels // 16
    whole = [(p - (largest - s) / 2) * 256 / pixels for p in range(largest)]
    rows, columns = (round(side * s) for side in shape)
    crops = [whole[(largest - n) // 2 :][:n] for n in (rows, columns)]
    plane = plane_positions((rows, columns), (s, s), 64)
    expected = [axis_sinusoid(torch.tensor(crop), 32) for crop in crops]
    assert torch.equal(plane[:, 0, 32:], expected[0]) and torch.equal(plane[0, :, :32], expected[1])


def test_column_is_the_first_half_and_time_vanishes_at_the_first_frame() -> None:
    plane = plane_positions((4, 4), (4, 4), 64)
    still, clip = over_time(plane, 1), over_time(plane, 3)
    assert torch.equal(clip[:16], still)
    assert not torch.allclose(clip[16:32], still, atol=0.1)
    columns = axis_sinusoid(centred(4, 4), 32)
    assert torch.equal(still[:4, :32], columns) and torch.equal(still[::4, 32:], columns)


def test_time_sinusoid_has_cosines_first_and_fine_steps() -> None:
    table = time_sinusoid(torch.tensor([0.0, 0.5, 0.5001]))
    assert torch.equal(table[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    assert table[1, 0].item() == pytest.approx(torch.cos(torch.tensor(500.0)).item(), abs=1e-4)
    assert not torch.equal(table[1], table[2])


def test_illegal_shapes_name_the_nearest_legal_ones() -> None:
    model = random_mmdit()
    with pytest.raises(ValueError, match=r"frames 5.*4 and 6"):
        model.check_shape(5, 8, 8)
    with pytest.raises(ValueError, match=r"height 7.*6 and 8"):
        model.check_shape(1, 7, 8)
    with pytest.raises(ValueError, match="pictures only"):
        random_mmdit(video_patch_size=None).check_shape(4, 8, 8)
    assert model.check_shape(4, 8, 6) == 2 * 4 * 3


def test_a_position_table_is_the_formula_s_and_ends_where_it_ends() -> None:
    formula, stored = random_mmdit(), random_mmdit(design=Design(position_table=12))
    assert "position_table" not in formula.state_dict() and stored.state_dict()["position_table"].shape == (12, 12, 128)
    stored.load_state_dict({**formula.state_dict(), "position_table": stored.formula_table(12)})
    z, t, text = (torch.randn(1, 3, 4, 8, 16),), torch.rand(1), Conditioning(features([3]))
    torch.testing.assert_close(formula(z, t, text)[0], stored(z, t, text)[0], atol=1e-5, rtol=0)
    assert formula.check_shape(1, 26, 8) == 13 * 4
    with pytest.raises(ValueError, match=r"26 x 8 are 13 x 4 patches, more than the 12 x 12"):
        stored.check_shape(1, 26, 8)


@pytest.mark.parametrize(
    ("design", "message"),
    [
        (Design(dual_attention_blocks=3), r"must lie in 0\.\.2, got 3"),
        (Design(position_table=0), "at least 1 patch, got 0"),
    ],
)
def test_impossible_designs(design: Design, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        random_mmdit(design=design)
    with pytest.raises(ValueError, match="set video_patch_size"):
        random_mmdit(design=Design(temporal="added"), video_patch_size=None)
    with pytest.raises(ValueError, match=r"\(2, 4, 4\) must end in 2, 2"):
        random_mmdit(design=Design(position_table=8), video_patch_size=(2, 4, 4))


def test_known_latents_are_refused_by_a_model_without_their_input() -> None:
    z = torch.randn(1, 3, 1, 8, 8)
    known = (Known(z, torch.ones(1, 1, 1, 8, 8)),)
    with pytest.raises(ValueError, match="known"):
        random_mmdit()((z,), torch.rand(1), Conditioning(features([3]), known))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without CUDA")
def test_xformers_without_cuda_is_an_error_and_no_fallback() -> None:
    with pytest.raises(ValueError, match=r"xformers needs a CUDA device.*sdpa"):
        random_mmdit(attention="xformers")


def test_bf16_autocast_is_near_fp32_and_t_stays_fp32() -> None:
    model = random_mmdit()
    z, t = (torch.randn(2, 3, 1, 8, 8), torch.randn(1, 3, 4, 8, 8)), torch.tensor([0.2, 0.7, 0.5])
    text = Conditioning(features([2, 5, 3]))
    exact = model(z, t, text)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(z, t, text)
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() < 0.03 * a.norm()


@pytest.mark.parametrize("design", [Design(), Design(known=True)], ids=["plain", "known"])
def test_what_does_not_depend_on_t_may_be_done_before(design: Design) -> None:
    model, text = random_mmdit(design=design), features([4, 6])
    z, t = (torch.randn(2, 3, 1, 8, 8),), torch.tensor([0.3, 0.6])
    ready = model.prepared(Conditioning(text))
    assert model.prepared(ready) is ready
    assert torch.equal(model(z, t, ready)[0], model(z, t, Conditioning(text))[0])
    calls: list[object] = []
    model.context_embedding.register_forward_hook(lambda *_: calls.append(None))
    model(z, t, ready)
    assert not calls
    framed = torch.tensor([[8.0, 8.0, 0.0, 0.0], [16.0, 8.0, 4.0, 0.0]])
    assert model.prepared(Conditioning(text, framed=framed)).framed is framed
