"""What a cell costs: its parameters and the FLOPs of a training step, and whether cells that are to be matched are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmflow.batch import Conditioning, TextFeatures
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
    the world's.

    Args:
        module: the FlowModule, its backbone on the meta device.
        data: the FlowData of a world of pictures.

    Raises:
        ValueError: if there are clips among them, or steps are not of equal numbers of samples.
    """
    shapes = data.mix.shapes()
    if len(shapes) > 1 or shapes[0][0] > 1:
        raise ValueError("the FLOPs of a step are counted for pictures of one size: set data.clip_share 0")
    samples = data.step_size.batch_size
    if samples is None:
        raise ValueError("the FLOPs of a step are counted for steps of equal numbers: set data.batch_size")
    items = [data.world.picture(0, "train", index) for index in range(samples)]
    text: TextFeatures = data.encoders.text.encode([item.caption for item in items])
    shape = data.encoders.latent_shape(*shapes[0])
    z = torch.empty(samples, *shape, device="meta")
    t = torch.empty(samples, device="meta")
    with FlopCounterMode(display=False) as counter:
        (out,) = module.backbone((z,), t, Conditioning(text.to("meta")))
        out.sum().backward()
    parameters = sum(p.numel() for p in module.backbone.parameters())
    return Size(parameters, counter.get_total_flops())


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
