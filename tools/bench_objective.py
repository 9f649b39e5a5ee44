"""What the training objective costs beside the network: group `objective` of tools/bench.py.

FlowObjective's own work (t, path, input scaling, target, weight, loss, and the way back to the network's output)
against a training step of depth 4 that has the same objective: forward, backward and fused AdamW on 4 pictures of
32 x 32 latents with captions of 77 tokens. For the first, an output of the network's shape stands for the network.
"""

from collections.abc import Callable
from typing import Any

import torch
from bench_measure import Figure, Setting, interleaved
from bench_models import Work, work
from torch import nn

from mmflow.batch import Conditioning
from mmflow.flow.formulations import parse
from mmflow.flow.objective import FlowObjective
from mmflow.model.mmdit import MMDiT
from mmflow.train.optim import AdamW

DEPTH, SAMPLES, SIDE, WORDS = 4, 4, 32, 77
FORMULATIONS = ("rf/lognorm(0.00,1.00)", "eps/linear", "edm(-1.20,1.20)", "v/cos")
REACH = 0.03
CALLS = 20
"""Of the objective at a time: one takes too little time to be measured."""


def objective(setting: Setting) -> list[Figure]:
    """The objective's share of a step, for each formulation and precision."""
    model = MMDiT(DEPTH, video_patch_size=None).to(setting.device)
    for name, parameter in model.named_parameters():
        if "norm_" not in name:
            nn.init.normal_(parameter, std=0.02)
    optimizer = AdamW(lr=1e-6).build(model)
    given = work(SAMPLES, SIDE, WORDS, model, setting.device)
    figures = []
    for precision in setting.precisions:
        for name in FORMULATIONS:
            asked = parse(name)
            own, whole = (
                alone(setting, precision, asked, given),
                step(setting, precision, asked, given, model, optimizer),
            )
            ours, peer = interleaved(setting, own, whole)
            each = tuple(seconds / CALLS for seconds in ours)
            figures.append(Figure(f"{name} over a step of depth {DEPTH}, {precision}", each, peer, REACH, "within"))
    return figures


def alone(setting: Setting, precision: str, asked: FlowObjective, given: Work) -> Callable[[], None]:
    """`CALLS` times the objective, forward and backward to the network's output."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    outputs = (torch.randn_like(given.x0[:, :, None]).to(dtype).requires_grad_(),)
    x0, eps, conditioning = (given.x0[:, :, None],), (given.eps[:, :, None],), Conditioning(given.features)

    def run() -> None:
        for _ in range(CALLS):
            with setting.autocast(precision):
                loss, _ = asked(lambda z, t, c: outputs, x0, conditioning, given.t, eps)
            loss.mean().backward()
            outputs[0].grad = None

    return run


def step(
    setting: Setting, precision: str, asked: FlowObjective, given: Work, model: MMDiT, optimizer: Any
) -> Callable[[], None]:
    """One step of training."""
    x0, eps, conditioning = (given.x0[:, :, None],), (given.eps[:, :, None],), Conditioning(given.features)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with setting.autocast(precision):
            loss, _ = asked(model, x0, conditioning, given.t, eps)
        loss.mean().backward()
        optimizer.step()

    return run
