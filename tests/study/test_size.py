"""What cells cost: counted, compared, and drawn against."""

from types import SimpleNamespace

import pytest
import torch

from mmflow.batch import TextFeatures
from mmflow.model.mmdit import MMDiT
from mmflow.planning.flops import load_of, step_flops
from mmflow.study.plot_curves import half_widths
from mmflow.study.size import Size, measure, unmatched
from tests.model.rivals import RIVALS, SIZES


def data(words: int) -> SimpleNamespace:
    """Four pictures of 8 x 8 with captions of so many words in each of two parts."""

    def encode(captions: list[str]) -> TextFeatures:
        b = len(captions)
        return TextFeatures(torch.randn(2 * b * words, 16), torch.full((b, 2), words), torch.randn(b, 8))

    return SimpleNamespace(
        step_size=SimpleNamespace(batch_size=4),
        world=SimpleNamespace(picture=lambda *_: SimpleNamespace(caption="a")),
        encoders=SimpleNamespace(text=SimpleNamespace(encode=encode), latent_shape=lambda *shape: (3, *shape)),
        mix=SimpleNamespace(shapes=lambda: [(1, 8, 8)]),
    )


def test_dit_s_flops_in_closed_form() -> None:
    d, b, n, words = 64, 4, 16, 3
    with torch.device("meta"):
        model = RIVALS["DiT"](1, **SIZES, mlp_ratio=2.0)
    size = measure(SimpleNamespace(backbone=model), data(words))
    rows = b * (n + 2 * words)
    matrices = rows * (3 * d * d + d * d + 2 * 2 * d * d)  # multiplications of the block's linears
    matrices += b * (2 * d * d + 6 * d * d + 2 * d * d)  # of the second layers of the embeddings, and the modulations
    matrices += b * n * d * 12  # and of the output
    once = b * n * 12 * d + b * 2 * words * 16 * d + b * (256 + 8) * d  # nobody asks for the gradient of what comes in
    attention = b * (n + 2 * words) ** 2 * d
    assert size.step_flops == 2 * (3 * matrices + 2 * once) + (4 + 8) * attention
    assert size.parameters == sum(p.numel() for p in model.parameters())


def test_flops_of_clips_are_those_of_the_closed_form() -> None:
    """A third of the samples are clips of two frames: the step costs two thirds of a step of pictures, and so on."""
    with torch.device("meta"):
        model = MMDiT(1, in_channels=3, context_width=16, pooled_width=8, patch_size=2, video_patch_size=(2, 2, 2))
    both = data(3)
    both.world.clip = both.world.picture
    both.mix = SimpleNamespace(
        shapes=lambda: [(1, 8, 8), (2, 8, 8)], media=lambda: [("picture", 2 / 3), ("clip", 1 / 3)]
    )
    found = measure(SimpleNamespace(backbone=model), both)
    alone = [step_flops(model, [load_of(model, (frames, 8, 8), 4, 6)]).total for frames in (1, 2)]
    assert found.step_flops == pytest.approx(2 / 3 * alone[0] + alone[1] / 3, abs=1)
    with pytest.raises(ValueError, match="clip_share 0"):
        measure(SimpleNamespace(backbone=torch.nn.Linear(1, 1)), both)
    unequal = data(3)
    unequal.step_size = SimpleNamespace(batch_size=None)
    with pytest.raises(ValueError, match=r"set data\.batch_size"):
        measure(SimpleNamespace(backbone=None), unequal)


def test_what_is_not_matched_is_said() -> None:
    found = {"a": Size(1000, 500), "b": Size(1029, 400), "c": Size(960, 514)}
    assert unmatched(found, {"parameters": ["a", "b"], "flops": ["a", "c"]}) == []
    assert unmatched(found, {"parameters": ["a", "b", "c"], "flops": ["a", "b"]}) == [
        "c has -4.0% parameters against a: more than 3%",
        "b has -20.0% flops against a: more than 3%",
    ]


def test_intervals_pool_the_spread_of_seeds() -> None:
    values = {"a": [1.0, 3.0], "b": [5.0, 9.0], "c": [2.0]}
    rows = [{"by": n, "step": 10, "seed": i, "x": v} for n, own in values.items() for i, v in enumerate(own)]
    half = half_widths(rows, "by", "x")
    spread = ((2 + 8) / 2) ** 0.5  # squares about the means, over two degrees of freedom
    assert half["a", 10] == pytest.approx(4.302653 * spread / 2**0.5, rel=1e-6)
    assert half["c", 10] == pytest.approx(4.302653 * spread, rel=1e-6)
    assert half_widths(rows[:1], "by", "x") == {}
