"""The same outputs of a network lead to the same sample here and through diffusers' schedulers."""

import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from mmflow.flow.density import Uniform
from mmflow.flow.diffusion_path import Edm, LdmLinear
from mmflow.flow.diffusion_prediction import EdmF, Epsilon, V
from mmflow.flow.grid import Karras, ReleasedSd3
from mmflow.flow.objective import FlowObjective
from mmflow.flow.prediction import AbstractPrediction
from mmflow.flow.shift import ConstantShift
from mmflow.flow.solver import Euler

NOISE = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def network(z: torch.Tensor, level: float) -> torch.Tensor:
    """Some output that depends on input and noise level."""
    return torch.tanh(z.roll(1, -1) + 0.5 * z) * (1.0 - 0.3 * level)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_match_euler(shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(12)
    x = NOISE.clone()
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, float(t) / 1000), t, x).prev_sample
    times = ReleasedSd3()(ConstantShift(shift), (NOISE,), 12)
    assert torch.allclose(times[0], scheduler.sigmas, atol=1e-6)
    field = FlowObjective().velocity(lambda z, t, c: (network(z[0], float(t[0])),))
    (out,) = Euler()(lambda z, t: field(z, t, None), (NOISE,), times)
    assert torch.allclose(out, x, atol=1e-5)


def test_edm_euler() -> None:
    scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(12)
    x = NOISE * 80.0
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = scheduler.step(network(scheduler.scale_model_input(x, t), float(sigma)), t, x).prev_sample
    of = FlowObjective(Edm(0.0, 1.6), EdmF(), Uniform())
    field = of.velocity(lambda z, t, c: (network(z[0], float(of.path.b(t)[0])),))
    times = Karras()(ConstantShift(), (NOISE,), 12, of.noise_shares)
    sigmas = times / (1 - times)
    assert torch.allclose(sigmas[0], scheduler.sigmas, rtol=1e-4)
    (out,) = Euler()(lambda z, t: field(z, t, None), (NOISE * 80 / 81,), times)
    assert torch.allclose(out, x, atol=2e-3)


@pytest.mark.parametrize(("prediction", "name"), [(Epsilon(), "epsilon"), (V(), "v_prediction")])
def test_ddim(prediction: AbstractPrediction, name: str) -> None:
    """Down to the last discrete step: there diffusers keeps its noise (set_alpha_to_one=False)."""
    scheduler = DDIMScheduler(
        1000,
        0.00085,
        0.012,
        "scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type=name,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(10)
    x = NOISE.clone()
    for step in scheduler.timesteps:
        x = scheduler.step(network(x, float(step) / 999), int(step), x).prev_sample
    path = LdmLinear()
    of = FlowObjective(path, prediction, Uniform())
    field = of.velocity(lambda z, t, c: (network(z[0], float(t[0])),))
    t = scheduler.timesteps.double() / 999
    times = torch.cat([path.noise_share(t), torch.zeros(1)]).float().expand(2, -1)
    start = NOISE / (path.a(t[:1]) + path.b(t[:1])).float()
    (out,) = Euler()(lambda z, t: field(z, t, None), (start,), times)
    assert torch.allclose(out, x, atol=1e-4)
