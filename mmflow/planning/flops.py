"""Exact FLOPs of a training step, in closed form: which rows go through which weights.

A visual or a text token passes its own stream's weights only, attention sees the tokens of one sample, modulation is
computed once per sample. A multiplication and an addition count as two. Norms, activations and other work that is no
matrix product are not counted, as is usual for MFU (Chowdhery et al. 2022, PaLM, appendix B).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from mmflow.model.block import MMDiTBlock
from mmflow.model.mmdit import MMDiT

BACKWARD_ATTENTION = 2.5
"""Products of the backward attention over those of the forward one: the weights are computed anew, as FlashAttention
does (Dao et al. 2022, section 3.1), and there are four more products."""


@dataclass(frozen=True)
class Load:
    """Samples of one shape in a step.

    Attributes:
        samples: how many.
        frames: visual token grid along time; 1 for a picture.
        plane: visual tokens of one of them.
        words: text tokens of each sample.
    """

    samples: int
    frames: int
    plane: int
    words: int

    @property
    def visual(self) -> int:
        """Visual tokens of one sample."""
        return self.frames * self.plane


@dataclass(frozen=True)
class Flops:
    """Of one pass over some samples, by where they go. Forward and backward of all that learns."""

    products: int
    attention: int

    @property
    def total(self) -> int:
        return self.products + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.products + other.products, self.attention + other.attention)


def load_of(model: MMDiT, latents: tuple[int, int, int], samples: int, words: int) -> Load:
    """Samples of latents of T x H x W.

    Raises:
        ValueError: if the model cannot take them.
    """
    model.check_shape(*latents)
    frames, height, width = model.patchifier(latents[0]).grid(latents)
    return Load(samples, frames, height * width, words)


def step_flops(model: MMDiT, loads: Sequence[Load], backward: bool = True) -> Flops:
    """FLOPs of the network on these samples.

    Args:
        model: on any device, meta included.
        loads: what the step holds.
        backward: with the backward pass: every product twice more, but for the first of each input, which has no
            gradient to hand back.
    """
    return sum((_flops(model, load, backward) for load in loads), Flops(0, 0))


def _flops(model: MMDiT, load: Load, backward: bool) -> Flops:
    joint = model.design.temporal == "joint"
    groups = 1 if joint else load.frames  # pictures that the blocks see of a sample
    rows = {"sample": load.samples * groups, "text": load.samples * groups * load.words}
    rows["visual"] = load.samples * load.visual
    products = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            each, first = _rows(name, load, rows)
            passes = 1 if not backward else 2 if first else 3
            products += passes * 2 * module.in_features * module.out_features * each
    pairs = load.samples * groups * (load.visual // groups + load.words) ** 2
    attention = 0
    for block in model.blocks:
        assert isinstance(block, MMDiTBlock)
        attention += 4 * pairs * model.width
        if block.visual.own is not None:
            attention += 4 * load.samples * groups * (load.visual // groups) ** 2 * model.width
        if block.over_time is not None and load.frames > 1:
            attention += 4 * load.samples * load.visual**2 * model.width
    return Flops(products, round(attention * (1 + (BACKWARD_ATTENTION if backward else 0))))


def _rows(name: str, load: Load, rows: dict[str, int]) -> tuple[int, bool]:
    """Rows that go through a layer, and whether its input needs no gradient."""
    part, clip = name.split(".")[0], load.frames > 1
    if part in ("picture_patchifier", "video_patchifier"):
        used = (part == "video_patchifier") == clip
        return (rows["visual"] if used else 0), name.endswith("embed")
    if part in ("time_embedding", "pooled_embedding"):
        return load.samples, name.endswith("first")
    if part == "context_embedding":
        return load.samples * load.words, True
    if part == "final_modulation":
        return rows["sample"], False
    _, _, stream, *rest = name.split(".")
    if stream == "over_time":
        through = load.samples if rest[0] == "modulation" else rows["visual"]
        return (through if clip else 0), False
    if rest[0] == "modulation":
        return rows["sample"], False
    return rows["text" if stream == "context" else "visual"], False
