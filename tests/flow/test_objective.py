"""The objective against closed forms, and its invariance to how samples are grouped."""

import math

import pytest
import torch
from torch import Tensor

from mmflow.batch import Conditioning, Known, TextFeatures
from mmflow.flow import formulations
from mmflow.flow.density import AsWeight, CosMap, LogitNormal, Uniform
from mmflow.flow.objective import FlowObjective
from mmflow.flow.prediction import AbstractPrediction, Data, Velocity
from mmflow.flow.shift import SizeShift


def constant(value: float):
    return lambda z, t, conditioning: tuple(torch.full_like(x, value) for x in z)


def bag() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    g = torch.Generator().manual_seed(1)
    shapes = [(2, 3, 1, 8, 8), (3, 3, 4, 4, 8)]
    x0 = tuple(torch.randn(s, generator=g) for s in shapes)
    eps = tuple(torch.randn(s, generator=g) for s in shapes)
    return x0, eps, torch.rand(5, generator=g)


def test_velocity_loss_of_a_constant_network() -> None:
    x0, eps, u = bag()
    loss, t = FlowObjective(density=Uniform())(constant(0.5), x0, None, u, eps)
    expected = torch.cat([(0.5 - (e - x)).square().flatten(1).mean(1) for x, e in zip(x0, eps, strict=True)])
    assert torch.allclose(loss, expected) and torch.equal(t, u)


W_TABLE = {
    "rf": lambda t, lam, slope: t / (1 - t),
    "rf/lognorm(0.00,1.00)": lambda t, lam, slope: torch.exp(-lam / 2),
    "eps/linear": lambda t, lam, slope: -2 / slope,
    "v/linear": lambda t, lam, slope: -2 * (1 + torch.exp(-lam)) / slope,
    "eps/cos": lambda t, lam, slope: torch.sin(math.pi * t) / math.pi,
    "v/cos": lambda t, lam, slope: 2 / math.pi * torch.exp(-lam / 2),
    "edm/rf": lambda t, lam, slope: -2 / slope * (torch.exp(-lam) + 0.25) / 0.25,
    "edm(-1.20,1.20)": lambda t, lam, slope: (
        2
        * torch.exp(-((lam - 2.4) ** 2) / (2 * 2.4**2))
        / (2.4 * math.sqrt(2 * math.pi))
        * (torch.exp(-lam) + 0.25)
        / 0.25
    ),
}
"""w_t of each formulation, constants included: the velocity's of eq 13, sech(lambda / 2) and e^(-lambda / 2) of the
cosine (section 3), and eq 16 of EDM."""


@pytest.mark.parametrize("name", W_TABLE)
def test_every_loss_is_the_weighted_epsilon_loss_of_eq_12(name: str) -> None:
    """-1/2 w lambda' |eps_theta - eps|^2 with eps_theta = -2 / (lambda' b) (v_theta - (a'/a) z) (eq 11)."""
    of, (x0, eps, _) = formulations.parse(name), bag()
    x, e = x0[0].double(), eps[0].double()
    density = of.density
    of = FlowObjective(of.path, of.prediction, Uniform())
    t = of.path.time(torch.tensor([0.2, 0.7], dtype=torch.float64))
    wide = [value.reshape(-1, 1, 1, 1, 1) for value in (of.path.a(t), of.path.b(t), of.path.da(t))]
    a, b, da = wide
    z, lam, slope = a * x + b * e, of.path.log_snr(t), of.path.log_snr_slope(t)
    output = torch.sin(3 * z) + t.reshape(-1, 1, 1, 1, 1)
    v = of.prediction.velocity(of.path, output, z, t)
    eps_theta = -2 / (slope.reshape(-1, 1, 1, 1, 1) * b) * (v - da / a * z)
    w = W_TABLE[name](t, lam, slope)
    expected = -0.5 * w * slope * (eps_theta - e).square().flatten(1).mean(1)
    target = of.prediction.target(of.path, x, e, t)
    loss = of.prediction.weight(of.path, t) * (output - target).square().flatten(1).mean(1)
    assert torch.allclose(loss, expected, rtol=1e-6)
    assert torch.allclose(of.epsilon_weight(t), w, rtol=1e-6)
    # And that is what a call computes, from u and in fp32.
    u = torch.tensor([0.3, 0.6])
    drawn = FlowObjective(of.path, of.prediction, density)(constant(0.3), x0[:1], None, u, eps[:1])[0]
    t = density.quantile(u)
    target = of.prediction.target(of.path, x0[0], eps[0], of.path.clamp(t))
    assert torch.allclose(drawn, (0.3 - target).square().flatten(1).mean(1), rtol=1e-4)


def test_a_density_as_weight_weighs() -> None:
    x0, eps, u = bag()
    plain, t = FlowObjective(density=Uniform())(constant(0.3), x0, None, u, eps)
    weighed, _ = FlowObjective(density=AsWeight(CosMap()))(constant(0.3), x0, None, u, eps)
    assert torch.allclose(weighed, CosMap().pdf(t) * plain)


def test_validation_asks_every_objective_the_same_question() -> None:
    """A network that errs by delta in eps - x0 has delta^2 at every level, whatever it predicts on whatever path."""
    for name in formulations.grid()[::6]:
        of = formulations.parse(name)
        low, high = of.noise_shares
        g = torch.Generator().manual_seed(3)
        x0, eps = (torch.randn(8, 3, 1, 4, 4, generator=g, dtype=torch.float64) for _ in range(2))
        levels = torch.arange(1, 9, dtype=torch.float64) / 8

        def network(z, t, conditioning, of=of, x0=x0, eps=eps):
            # At fixed z, x0 falls by s delta and eps rises by (1 - s) delta.
            s = of.path.noise_share(t).reshape(-1, 1, 1, 1, 1)
            return (of.prediction.target(of.path, x0 - s * 0.1, eps + (1 - s) * 0.1, t),)

        loss, _ = of.at(network, (x0,), None, levels, (eps,))
        reached = (levels >= low) & (levels <= high)
        assert reached[:-1].all()
        assert torch.allclose(loss[reached], torch.full_like(loss[reached], 0.01), rtol=1e-3), name


def test_levels_outside_of_0_to_1_are_refused() -> None:
    x0, eps, _ = bag()
    with pytest.raises(ValueError, match=r"got 1\.2 for sample 4"):
        FlowObjective().at(constant(0.0), x0, None, torch.tensor([0.1, 0.2, 0.3, 0.4, 1.2]), eps)


def test_evenly_spread_draws_lessen_the_variance_of_loss_and_gradient() -> None:
    """data.low_discrepancy: u = frac(u0 + place x golden ratio) over the samples of a step, instead of independent u.

    Variance between steps of 32 samples, drawn anew each, of the loss and of its gradient in a linear network. The more
    pixels a sample has, the more of that variance is due to its t.
    """
    g, steps, samples = torch.Generator().manual_seed(0), 80, 32
    weight = (torch.randn(3, 3, generator=g) * 0.3).requires_grad_()
    x0, eps = (torch.randn(steps * samples, 3, 1, 6, 6, generator=g) for _ in range(2))

    def network(z, t, conditioning):
        return (torch.einsum("bcthw,cd->bdthw", z[0], weight) * (1 + 2 * t.reshape(-1, 1, 1, 1, 1)),)

    def variances(u: Tensor) -> tuple[float, float]:
        losses = FlowObjective()(network, (x0,), None, u, (eps,))[0].reshape(steps, samples).mean(1)
        gradients = torch.stack([torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses])
        return losses.var().item(), gradients.var(0).mean().item()

    independent = variances(torch.rand(steps * samples, generator=g))
    places = torch.arange(steps * samples, dtype=torch.float64)
    even = variances((places * ((5**0.5 - 1) / 2) % 1.0).float())
    print(
        f"variance with evenly spread t: loss {even[0] / independent[0]:.2f}, gradient {even[1] / independent[1]:.2f}"
    )
    assert even[0] < 0.7 * independent[0] and even[1] < 0.7 * independent[1]


@pytest.mark.parametrize("prediction", [Velocity(), Data()])
def test_a_sample_has_the_loss_it_would_have_alone(prediction: AbstractPrediction) -> None:
    x0, eps, u = bag()
    objective = FlowObjective(prediction=prediction, shift=SizeShift(base_area=64))

    def network(z, t, conditioning):
        parts = t.split([len(x) for x in z])
        return tuple(torch.sin(3 * x) * p.view(-1, 1, 1, 1, 1) for x, p in zip(z, parts, strict=True))

    together, _ = objective(network, x0, None, u, eps)
    alone = []
    for group, (x, e) in enumerate(zip(x0, eps, strict=True)):
        for i in range(len(x)):
            place = i + 2 * group
            alone.append(objective(network, (x[i : i + 1],), None, u[place : place + 1], (e[i : i + 1],))[0])
    assert torch.allclose(together, torch.cat(alone), rtol=1e-5)


def test_shift_moves_the_time_of_larger_samples_up() -> None:
    x0, _, u = bag()
    objective = FlowObjective(density=LogitNormal(), shift=SizeShift(base_area=64))
    t = objective.time(u, x0)
    plain = FlowObjective().time(u, x0)
    assert torch.allclose(t[:2], plain[:2])
    assert torch.allclose(
        torch.logit(t[2:]), torch.logit(plain[2:]) + torch.tensor(4 * 32 / 64).sqrt().log(), atol=1e-5
    )


def test_only_unknown_positions_count() -> None:
    x0, eps, u = bag()
    masks = tuple(torch.zeros(len(x), 1, *x.shape[2:]) for x in x0)
    for mask in masks:
        mask[..., :2] = 1
    text = TextFeatures(torch.zeros(5, 4), torch.ones(5, 1, dtype=torch.int64), torch.zeros(5, 4))
    known = tuple(Known(x, m) for x, m in zip(x0, masks, strict=True))
    loss, _ = FlowObjective()(constant(0.0), x0, Conditioning(text, known), u, eps)
    expected = [(e - x)[..., :2].square().flatten(1).mean(1) for x, e in zip(x0, eps, strict=True)]
    assert torch.allclose(loss, torch.cat(expected), rtol=1e-5)


def test_an_empty_bag_has_no_losses() -> None:
    loss, t = FlowObjective()(
        constant(0.0), (torch.zeros(0, 3, 1, 8, 8),), None, torch.zeros(0), (torch.zeros(0, 3, 1, 8, 8),)
    )
    assert loss.shape == t.shape == (0,)
