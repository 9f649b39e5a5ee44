"""What a cell costs: its parameters and the FLOPs of a training step, and whether cells that are to be matched are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmflow.batch import Conditioning, TextFeatures
from mmflow.model.mmdit import MMDiT
from mmflow.planning.flops import load_of, step_flops
from mmflow.study.plan import MATCHED, Study

TOLERANCE = 0.03
"""By which matched cells may differ from the first of their group."""


@dataclass(frozen=True)
class Size:
    """Of one cell.

    Attributes:
        parameters: all that learn.
        step_flops: of one training step, forward and backward, a multiplication and an addition counted as two.
    """

    parameters: int
    step_flops: int


def measure(module: Any, data: Any) -> Size:
    """Size of a cell, without memory: the step's pictures are on the meta device, its captions are the first of
    the world's. With clips among them the FLOPs are those of the closed form in `planning.flops`.

    Args:
        module: the FlowModule, its backbone on the meta device.
        data: the FlowData of a shapes world.

    Raises:
        ValueError: if there are clips and the backbone is no MMDiT, or steps are not of equal numbers of samples.
    """
    samples = data.step_size.batch_size
    if samples is None:
        raise ValueError("the FLOPs of a step are counted for steps of equal numbers: set data.batch_size")
    parameters = sum(p.numel() for p in module.backbone.parameters())
    shapes = data.mix.shapes()
    if len(shapes) > 1 or shapes[0][0] > 1:
        return Size(parameters, _flops_with_clips(module.backbone, data, samples))
    items = [data.world.picture(0, "train", index) for index in range(samples)]
    text: TextFeatures = data.encoders.text.encode([item.caption for item in items])
    shape = data.encoders.latent_shape(*shapes[0])
    z = torch.empty(samples, *shape, device="meta")
    t = torch.empty(samples, device="meta")
    with FlopCounterMode(display=False) as counter:
        (out,) = module.backbone((z,), t, Conditioning(text.to("meta")))
        out.sum().backward()
    return Size(parameters, counter.get_total_flops())


def _flops_with_clips(backbone: Any, data: Any, samples: int) -> int:
    """Of a step with its share of clips; captions are the first of the world's of either medium."""
    if not isinstance(backbone, MMDiT):
        raise ValueError(
            f"FLOPs of a step with clips are counted for MMDiT, not {type(backbone).__name__}: set data.clip_share 0"
        )
    total = 0.0
    for medium, share in data.mix.media():
        draw = data.world.picture if medium == "picture" else data.world.clip
        text = data.encoders.text.encode([draw(0, "train", index).caption for index in range(samples)])
        shapes = [shape for shape in data.mix.shapes() if (shape[0] == 1) == (medium == "picture")]
        for words, number in Counter(text.lengths.sum(1).tolist()).items():
            for shape in shapes:
                latents = data.encoders.latent_shape(*shape)[1:]
                spent = step_flops(backbone, [load_of(backbone, latents, number, words)]).total
                total += share * spent / len(shapes)
    return round(total)


def size_of_run(config: Path) -> Size:
    """Of a run that was begun."""
    from mmflow.cli import build

    return measure(*build(config))


def sizes(study: Study) -> dict[str, Size]:
    """Value of the axis `rows` -> size, built from each cell's own command line."""
    from mmflow.__main__ import quieten
    from mmflow.cli import MmflowCLI

    quieten()
    found: dict[str, Size] = {}
    for cell in study.cells():
        label = cell.labels[study.rows]
        if label not in found:
            arguments = [a for a in study.arguments(cell) if not a.startswith("--resume")]
            cli = MmflowCLI(arguments, for_use=False)
            found[label] = measure(cli.model, cli.datamodule)
    return found


def unmatched(found: Mapping[str, Size], matched: Mapping[str, Sequence[str]]) -> list[str]:
    """In words, every cell that differs from the first of its group by more than `TOLERANCE`."""
    lines = []
    for kind, labels in matched.items():
        values = {label: float(getattr(found[label], MATCHED[kind])) for label in labels}
        first = values[labels[0]]
        lines += [
            f"{label} has {value / first - 1:+.1%} {kind} against {labels[0]}: more than {TOLERANCE:.0%}"
            for label, value in values.items()
            if abs(value / first - 1) > TOLERANCE
        ]
    return lines
