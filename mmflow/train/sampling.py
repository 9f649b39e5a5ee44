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
from mmflow.batch import Codec, Conditioning, Given, Known, Request, TextFeatures
from mmflow.export import to_uint8
from mmflow.flow.grid import AbstractGrid, Even
from mmflow.flow.guidance import ALWAYS, guided
from mmflow.flow.known import held, started
from mmflow.flow.objective import Backbone, FlowObjective
from mmflow.flow.solver import AbstractSolver, Euler
from mmflow.model.mmdit import AbstractBackbone


@dataclass(frozen=True)
class Sampling:
    """How pictures and clips are made from a trained network.

    Attributes:
        num_steps: of the solver.
        guidance_scale: classifier-free guidance; 1 is none.
        solver: of the ODE.
        grid: how its steps are spread over the noise levels.
        guidance_interval: shares of the noise within which there is guidance; [0, 1] is everywhere.
        null_known: whether guidance is away from a state in which what is known is `dropped` like the text, or `kept`,
            as in diffusers' pipelines: then it is a matter of the text alone.
        known: `held` keeps what is given: on the way, as in training, and in the pixels that come out. `free` only
            shows it to the network, as diffusers' inpainting pipeline does; for weights that were trained for that.
        precision: fp32 keeps a picture independent of its batch; bf16 is faster where the hardware has it.
        batch_size: pictures at a time; clips count as their frames, never fewer than one.
        weights: the averaged ones, where there are any, or those of the last step.
    """

    num_steps: int = 28
    guidance_scale: float = 5.0
    solver: AbstractSolver = field(default_factory=Euler)
    grid: AbstractGrid = field(default_factory=Even)
    guidance_interval: tuple[float, float] = ALWAYS
    null_known: Literal["dropped", "kept"] = "dropped"
    known: Literal["held", "free"] = "held"
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
    known = given_parts(codec, requests, device)
    alone = Conditioning(text, known).to(device)
    both = Conditioning(TextFeatures.cat([text, null]), paired(known, sampling.null_known == "dropped")).to(device)
    if isinstance(backbone, AbstractBackbone):
        with torch.autocast(device.type, torch.bfloat16, enabled=sampling.precision == "bf16"):
            alone, both = backbone.prepared(alone), backbone.prepared(both)
    interval = sampling.guidance_interval[0], sampling.guidance_interval[1]
    field = guided(objective.velocity(backbone), alone, both, scale, interval)
    times = sampling.grid(objective.shift, z, first.num_steps or sampling.num_steps, objective.noise_shares)
    y = objective.start(z)
    if known is not None and sampling.known == "held":
        field, y = held(field, known), started(y, z, known, times[:, 0])
    with torch.autocast(device.type, torch.bfloat16, enabled=sampling.precision == "bf16"):
        (latents,) = sampling.solver(field, y, times)
    made = [to_uint8(p) for p in codec.decode(latents.float()).cpu()]
    if sampling.known == "held":
        made = [put_back(request, frames) for request, frames in zip(requests, made, strict=True)]
    return made


def given_parts(codec: Codec, requests: Sequence[Request], device: torch.device) -> tuple[Known, ...] | None:
    """What the requests give, as latents of one group; None if none gives anything."""
    if all(request.given is None for request in requests):
        return None
    laid_out = [(r.given or Given(())).laid_out(r.frames, r.height, r.width) for r in requests]
    pixels = torch.from_numpy(np.stack([frames for frames, _ in laid_out])).permute(0, 4, 1, 2, 3)
    unknown = torch.from_numpy(np.stack([hidden for _, hidden in laid_out]))[:, None]
    return (codec.encode_known(pixels.to(device), unknown.to(device)),)


def paired(known: tuple[Known, ...] | None, dropped: bool) -> tuple[Known, ...] | None:
    """Of a bag in which each group is followed by itself, for guidance; dropped in the second half if asked."""
    if known is None:
        return None
    return tuple(Known.cat([part, part.dropped() if dropped else part]) for part in known)


def put_back(request: Request, made: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    """What was made, with the given pixels as they were given."""
    if request.given is None:
        return made
    pixels, unknown = request.given.laid_out(request.frames, request.height, request.width)
    return np.where(unknown[..., None], made, pixels)
