"""The one sampler: previews, scores, `test`, `predict` and Pipeline all make their pictures and clips here.

A picture is a pure function of the weights, the prompt, the seed and its settings. Noise is named by (seed, prompt) and
drawn on the host, and the arithmetic is fp32 unless asked otherwise, so neither its neighbours in a batch nor the
order of the requests show in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8

from mmflow import draws
from mmflow.batch import Codec, Conditioning, Request, TextFeatures
from mmflow.export import to_uint8
from mmflow.flow.grid import AbstractGrid, Even
from mmflow.flow.guidance import ALWAYS, guided
from mmflow.flow.objective import Backbone, FlowObjective
from mmflow.flow.solver import AbstractSolver, Euler


@dataclass(frozen=True)
class Sampling:
    """How pictures and clips are made from a trained network.

    Attributes:
        num_steps: of the solver.
        guidance_scale: classifier-free guidance; 1 is none.
        solver: of the ODE.
        grid: how its steps are spread over the noise levels.
        guidance_interval: shares of the noise within which there is guidance; [0, 1] is everywhere.
        precision: fp32 keeps a picture independent of its batch; bf16 is faster where the hardware has it.
        batch_size: pictures at a time; clips count as their frames, never fewer than one.
        weights: the averaged ones, where there are any, or those of the last step.
    """

    num_steps: int = 28
    guidance_scale: float = 5.0
    solver: AbstractSolver = field(default_factory=Euler)
    grid: AbstractGrid = field(default_factory=Even)
    guidance_interval: tuple[float, float] = ALWAYS
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: int = 64
    weights: Literal["ema", "raw"] = "ema"

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.batch_size < 1:
            raise ValueError(f"num_steps and batch_size must be at least 1, got {self.num_steps}, {self.batch_size}")
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise ValueError(f"guidance_interval needs 0 <= low < high <= 1, got {low}, {high}")


@torch.no_grad()
def make(
    backbone: Backbone,
    objective: FlowObjective,
    codec: Codec,
    requests: Sequence[Request],
    sampling: Sampling,
    device: torch.device,
) -> list[UInt8[np.ndarray, "T H W 3"]]:
    """The pictures and clips of requests of one shape and number of steps.

    Raises:
        ValueError: if the autoencoder or the model cannot make that shape.
    """
    first = requests[0]
    shape = codec.latent_shape(first.frames, first.height, first.width)
    noise = [draws.normal(r.seed, "eps", ("prompt", r.prompt), 0, shape) for r in requests]
    z = (torch.stack(noise).to(device),)
    text = codec.encode_text([r.prompt for r in requests], device)
    null = codec.encode_text([r.negative_prompt or "" for r in requests], device)
    scale = torch.tensor(
        [sampling.guidance_scale if r.guidance_scale is None else r.guidance_scale for r in requests],
        dtype=torch.float32,
        device=device,
    )
    field = guided(
        objective.velocity(backbone),
        Conditioning(text).to(device),
        Conditioning(TextFeatures.cat([text, null])).to(device),
        scale,
        (sampling.guidance_interval[0], sampling.guidance_interval[1]),
    )
    times = sampling.grid(objective.shift, z, first.num_steps or sampling.num_steps, objective.noise_shares)
    with torch.autocast(device.type, torch.bfloat16, enabled=sampling.precision == "bf16"):
        (latents,) = sampling.solver(field, objective.start(z), times)
    pixels = codec.decode(latents.float())
    return [to_uint8(p) for p in pixels.cpu()]
