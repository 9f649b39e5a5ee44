"""FLOPs in closed form against what torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmflow.batch import Conditioning
from mmflow.model.design import Design
from mmflow.model.mmdit import MMDiT
from mmflow.planning.flops import load_of, step_flops
from tests.conftest import features

SHAPES = {
    "a picture": ([((1, 8, 8), 1)], 5),
    "pictures": ([((1, 8, 8), 4)], 7),
    "portrait and landscape": ([((1, 4, 16), 2), ((1, 16, 4), 3)], 3),
    "a long clip": ([((8, 8, 8), 1)], 4),
    "pictures and clips": ([((1, 8, 8), 3), ((4, 8, 8), 2), ((2, 4, 8), 1)], 6),
}
DESIGNS = {
    "plain": Design(),
    "dual": Design(dual_attention_blocks=2),
    "added": Design(temporal="added"),
    "relative": Design(rotary=True, relative_values=True, head_width=32),
}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "with backward"])
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", SHAPES)
def test_flops_are_those_that_torch_counts(name: str, design: str, backward: bool) -> None:
    groups, words = SHAPES[name]
    with torch.device("meta"):
        model = MMDiT(3, 4, 32, 24, 2, (2, 2, 2), 8, design=DESIGNS[design])
    z = tuple(torch.empty(count, 4, *shape, device="meta") for shape, count in groups)
    total = sum(count for _, count in groups)
    text = features([words] * total, 32, 24).to("meta")
    with FlopCounterMode(display=False) as counter:
        outputs = model(z, torch.empty(total, device="meta"), Conditioning(text))
        if backward:
            torch.cat([out.flatten() for out in outputs]).sum().backward()
    loads = [load_of(model, shape, count, words) for shape, count in groups]
    flops = step_flops(model, loads, backward)
    # Samples of one shape share torch's own attention, whose backward on the meta device keeps the weights.
    attention = flops.attention * (3 / 3.5 if backward and len(groups) == 1 else 1)
    assert flops.products + attention == pytest.approx(counter.get_total_flops(), rel=0.005)
