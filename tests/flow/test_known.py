"""Given parts in the equations: what z_t is made of, and what every solver leaves as it was given."""

import pytest
import torch

from mmflow.batch import Conditioning, Known, TextFeatures
from mmflow.flow import formulations
from mmflow.flow.grid import Even
from mmflow.flow.known import held, started, with_known
from mmflow.flow.objective import FlowObjective
from mmflow.flow.solver import AbstractSolver, DpmSolver2M, Euler, Heun, Midpoint

TEXT = TextFeatures(torch.zeros(2, 4), torch.ones(2, 1, dtype=torch.int64), torch.zeros(2, 4))


def half_known() -> tuple[torch.Tensor, torch.Tensor, Known]:
    """x0, noise, and known latents that are not x0's, in the first of four frames."""
    g = torch.Generator().manual_seed(0)
    x0, eps, latents = (torch.randn(2, 3, 4, 2, 2, generator=g) for _ in range(3))
    mask = torch.ones(2, 1, 4, 2, 2)
    mask[:, :, 0] = 0
    return x0, eps, Known(latents, mask)


def test_z_t_is_made_of_what_is_given_and_its_loss_is_not_counted() -> None:
    x0, eps, known = half_known()
    seen: list[torch.Tensor] = []

    def network(z, t, conditioning):
        seen.append(z[0])
        return (torch.zeros_like(z[0]),)

    u = torch.tensor([0.3, 0.6])
    loss, t = FlowObjective()(network, (x0,), Conditioning(TEXT, (known,)), u, (eps,))
    share = t.view(2, 1, 1, 1, 1)
    torch.testing.assert_close(seen[0][:, :, :1], ((1 - share) * known.latents + share * eps)[:, :, :1])
    torch.testing.assert_close(seen[0][:, :, 1:], ((1 - share) * x0 + share * eps)[:, :, 1:])
    torch.testing.assert_close(loss, (eps - x0)[:, :, 1:].square().flatten(1).mean(1))
    level, _ = FlowObjective().at(network, (x0,), Conditioning(TEXT, (known,)), torch.tensor([0.5, 0.5]), (eps,))
    torch.testing.assert_close(level, loss.double())
    assert with_known((x0,), None) == (x0,)


@pytest.mark.parametrize("solver", [Euler(), Heun(), Midpoint(), DpmSolver2M()], ids=str)
@pytest.mark.parametrize("name", ["rf", "v/cos", "eps/linear", "edm(-1.20,1.20)"])
def test_given_latents_stay_on_their_line_and_come_out(name: str, solver: AbstractSolver) -> None:
    _, noise, known = half_known()
    objective = formulations.parse(name)
    visited: list[tuple[torch.Tensor, torch.Tensor]] = []

    def field(y, s):
        visited.append((y[0], s))
        return (torch.ones_like(y[0]),)

    times = Even()(objective.shift, (noise,), 5, objective.noise_shares)
    y = started(objective.start((noise,)), (noise,), (known,), times[:, 0])
    (out,) = solver(held(field, (known,)), y, times)
    torch.testing.assert_close(out[:, :, 0], known.latents[:, :, 0], atol=1e-5, rtol=0)
    for at, s in visited:
        share = s.view(2, 1, 1, 1, 1)
        line = (1 - share) * known.latents + share * noise
        torch.testing.assert_close(at[:, :, 0], line[:, :, 0], atol=1e-5, rtol=0)
    (free,) = solver(field, objective.start((noise,)), times)
    torch.testing.assert_close(out[:, :, 1:], free[:, :, 1:])
