"""A model started from a smaller one computes what the smaller one computed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmflow.batch import Conditioning, Known
from mmflow.model.archive import write_file
from mmflow.model.design import Design
from mmflow.model.grow import grown_shapes, start_from
from mmflow.model.interop import open_released
from mmflow.model.mmdit import MMDiT
from mmflow.model.publish import published
from mmflow.model.sizes import shape_of
from tests.conftest import features, random_mmdit


def started(small: MMDiT, large: MMDiT) -> tuple[MMDiT, list[str]]:
    """`large` from its first values and those of `small`, and what is said about it."""
    large.reset_parameters()
    weights = small.state_dict()
    shapes = {name: tensor.to("meta") for name, tensor in weights.items()}
    grown, state = grown_shapes(large, shapes), large.state_dict()
    assert {n: t.shape for n, t in grown.items()} == {n: t.shape for n, t in state.items()}
    report = start_from(large, weights, shapes)
    return large, report.lines({name: tensor.numel() for name, tensor in state.items()})


def run(model: MMDiT, *groups: Tensor) -> tuple[Tensor, ...]:
    count = sum(len(z) for z in groups)
    text = Conditioning(features([3 + i for i in range(count)]))
    return model(groups, torch.linspace(0.1, 0.9, count), text)


PICTURES = torch.randn(2, 3, 1, 8, 12, generator=torch.Generator().manual_seed(0))


def test_a_second_attention_changes_nothing_at_first() -> None:
    base = random_mmdit()
    large, said = started(base, random_mmdit(design=Design(dual_attention_blocks=1)))
    assert torch.equal(run(large, PICTURES)[0], run(base, PICTURES)[0])
    assert any("grown: modulation of a second attention, zero (2 tensors" in line for line in said)
    assert any("new: second attention, behind a zero gate (6 tensors" in line for line in said)


def test_qk_norm_is_added_with_weight_one() -> None:
    base = random_mmdit(qk_norm=False)
    large, said = started(base, random_mmdit(qk_norm=True))
    own, state = base.state_dict(), large.state_dict()
    assert all(torch.equal(state[n], t) for n, t in own.items())
    added = state.keys() - own.keys()
    assert len(added) == 2 * 2 * 2 and all(torch.equal(state[n], torch.ones(64)) for n in added)
    assert said[1].startswith("  new: RMSNorm on queries and keys, with weight one (8 tensors")


def test_a_position_table_grows_around_what_was_there() -> None:
    base = random_mmdit(design=Design(position_table=8))
    assert base.position_table is not None
    base.position_table += 1e-3 * torch.randn(8, 8, 128)  # as a rounded table of a checkpoint is
    large, said = started(base, random_mmdit(design=Design(position_table=12)))
    assert torch.equal(run(large, PICTURES)[0], run(base, PICTURES)[0])
    assert any("from 8 to 12 patches" in line for line in said)
    assert torch.equal(large.position_table[:2], large.formula_table(12)[:2])
    assert large.check_shape(1, 24, 24) == 144


def test_a_table_that_the_formula_would_not_continue_is_not_grown_or_dropped() -> None:
    base = random_mmdit(design=Design(position_table=8), base_size=16)
    for target in (Design(position_table=12), Design()):
        with pytest.raises(ValueError, match=r"not the one that the formula gives for base_size 8.*position_table 8"):
            started(base, random_mmdit(design=target))
    with pytest.raises(ValueError, match="by an even number"):
        started(base, random_mmdit(design=Design(position_table=11), base_size=16))
    large, _ = started(base, random_mmdit(base_size=16))
    torch.testing.assert_close(run(large, PICTURES)[0], run(base, PICTURES)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("frames", [2, 4])
def test_inflation_repeats_the_picture(frames: int) -> None:
    base = random_mmdit(video_patch_size=None)
    large, said = started(base, random_mmdit(video_patch_size=(frames, 2, 2)))
    pictures = run(base, PICTURES)[0]
    clips = run(large, PICTURES.repeat(1, 1, frames, 1, 1))[0]
    assert pictures.std() > 0.1
    largest = pictures.abs().max().item()
    torch.testing.assert_close(clips, pictures.repeat(1, 1, frames, 1, 1), atol=1e-6 * largest, rtol=0)
    assert torch.equal(run(large, PICTURES)[0], pictures)
    assert any(f"grown: 3D patchifier of {frames} frames from the 2D one" in line for line in said)


def test_a_clip_of_unlike_frames_is_their_mean_to_an_inflated_model() -> None:
    base = random_mmdit(video_patch_size=None)
    large, _ = started(base, random_mmdit())
    clip = torch.randn(1, 3, 2, 8, 8)
    mean = run(base, clip.mean(2, keepdim=True))[0]
    torch.testing.assert_close(run(large, clip)[0], mean.repeat(1, 1, 2, 1, 1), atol=1e-5, rtol=0)


def test_an_input_for_known_parts_changes_nothing_at_first() -> None:
    base = random_mmdit(video_patch_size=None)
    pictures, clips = PICTURES, PICTURES.repeat(1, 1, 2, 1, 1)
    text, t = Conditioning(features([3, 4])), torch.tensor([0.1, 0.9])
    large, said = started(base, random_mmdit(design=Design(known=True)))
    (expected,) = base((pictures,), t, text)
    largest = expected.abs().max().item()
    for z, tolerance in ((pictures, 0.0), (clips, 1e-6 * largest)):
        known = Known(torch.randn_like(z), torch.randint(0, 2, z[:, :1].shape).float())
        for given in (None, (known,)):
            (out,) = large((z,), t, replace(text, known=given))
            torch.testing.assert_close(out, expected.repeat(1, 1, z.shape[2], 1, 1), atol=tolerance, rtol=0)
    assert any("grown: input for known parts: columns of zeros" in line for line in said)
    video, _ = started(base, random_mmdit())
    again, said = started(video, random_mmdit(design=Design(known=True)))
    assert sum("columns of zeros for mask and known latents (2 tensors" in line for line in said) == 1
    assert all(torch.equal(again.state_dict()[n], t) for n, t in large.state_dict().items())
    # Once the columns are not zero, what is given is seen.
    again.picture_patchifier.embed.weight.data += 0.1 * torch.randn_like(again.picture_patchifier.embed.weight)
    known = Known(torch.randn_like(pictures), torch.zeros_like(pictures[:, :1]))
    seen = [again((pictures,), t, replace(text, known=given))[0] for given in (None, (known,))]
    assert (seen[0] - seen[1]).abs().max() > 1e-2


@pytest.mark.parametrize("rotary", [False, True])
def test_the_paper_s_way_starts_as_the_picture_model_frame_group_by_frame_group(rotary: bool) -> None:
    base = random_mmdit(video_patch_size=None, design=Design(rotary=rotary))
    large, said = started(base, random_mmdit(design=Design(temporal="added", rotary=rotary)))
    clip = torch.randn(1, 3, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    text, t = Conditioning(features([5])), torch.tensor([0.4])
    (out,) = large((clip,), t, text)
    largest = out.abs().max().item()
    for i in range(0, 6, 2):
        (expected,) = base((clip[:, :, i : i + 2].mean(2, keepdim=True),), t, text)
        torch.testing.assert_close(out[:, :, i : i + 2], expected.repeat(1, 1, 2, 1, 1), atol=2e-6 * largest, rtol=0)
    assert any("new: attention over time, behind a zero gate (16 tensors" in line for line in said)
    # Once the gate opens, frame groups see each other; pictures still do not go through it.
    pictures = run(large, PICTURES)[0]
    for name, parameter in large.named_parameters():
        if ".over_time." in name:
            parameter.data = torch.randn(parameter.shape) * 0.1
    changed = clip.clone()
    changed[:, :, 4:] += 1
    before, after = (large((z,), t, text)[0] for z in (clip, changed))
    assert (before - out).abs().max() > 1e-2 and (after - before)[:, :, :4].abs().max() > 1e-3
    assert torch.equal(run(large, PICTURES)[0], pictures) and torch.equal(pictures, run(base, PICTURES)[0])
    large.drop_clips()
    assert large.state_dict().keys() == base.state_dict().keys()
    assert torch.equal(run(large, PICTURES)[0], pictures)


def test_frame_groups_are_told_apart_in_the_attention_over_time() -> None:
    """Positions in time stand there: frame groups in another order are another clip."""
    model = random_mmdit(design=Design(temporal="added"))
    for name, parameter in model.named_parameters():
        parameter.data *= 4 if ".over_time." in name else 1
    clip, t, text = torch.randn(1, 3, 4, 8, 8), torch.tensor([0.4]), Conditioning(features([5]))
    (out,) = model((clip,), t, text)
    swapped = torch.cat([clip[:, :, 2:], clip[:, :, :2]], 2)
    (back,) = model((swapped,), t, text)
    assert (torch.cat([back[:, :, 2:], back[:, :, :2]], 2) - out).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_image_half_goes_back_as_the_same_bytes(dtype: torch.dtype, tmp_path: Path) -> None:
    base = random_mmdit(video_patch_size=None, design=Design(1, 8))
    write_file(tmp_path / "a", published(shape_of(base), "single-file", base.state_dict(), dtype), {})
    released = open_released(tmp_path / "a")
    assert released is not None
    large = random_mmdit(design=Design(1, 8))
    large.reset_parameters()
    start_from(large, released.weights(), released.weights().meta())
    write_file(tmp_path / "b", published(shape_of(large), "single-file", large.state_dict(), dtype), {})
    before, after = load_file(tmp_path / "a"), load_file(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert all(tensor.dtype == dtype for tensor in before.values()) and before.keys() == after.keys()


def test_a_patch_of_another_size_is_not_inflated() -> None:
    shapes = {n: t.to("meta") for n, t in random_mmdit(video_patch_size=None).state_dict().items()}
    model = random_mmdit(video_patch_size=(2, 4, 4))
    assert "video_patchifier.embed.weight" not in grown_shapes(model, shapes)
