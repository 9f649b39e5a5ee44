"""How long and how straight the way from noise to data is (SD3 paper, section 5.3.3 and Table 6)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.flow.solver import AbstractSolver, Groups, Past, Progress, VelocityField


@final
@dataclass(frozen=True)
class Traced(AbstractSolver):
    """Another method, watched.

    Attributes:
        solver: does the work.
        lengths: of each sample's way, sum_i |v(z_i, t_i)| |t_i+1 - t_i| over the steps, norms over the whole latent.
        distances: of its two ends, |z_0 - z_1|: the length of the straight way.
    """

    solver: AbstractSolver
    lengths: list[Float[Tensor, " B"]] = field(default_factory=list)
    distances: list[Float[Tensor, " B"]] = field(default_factory=list)

    @property
    def evaluations_per_step(self) -> int:
        return self.solver.evaluations_per_step

    def advance(
        self,
        velocity: VelocityField,
        z: Groups,
        t: Float[Tensor, " B"],
        t_next: Float[Tensor, " B"],
        past: Past | None,
    ) -> tuple[Groups, Past | None]:
        return self.solver.advance(velocity, z, t, t_next, past)

    def __call__(
        self, velocity: VelocityField, z: Groups, times: Float[Tensor, "B S"], on_step: Progress | None = None
    ) -> Groups:
        """As the watched method, whose numbers these are to the bit."""
        norms: list[Tensor] = []
        end = self.solver(_watched(velocity, self.evaluations_per_step, norms), z, times, on_step)
        spent = times.diff(dim=1).abs().to(norms[0])
        self.lengths.append((torch.stack(norms, 1) * spent).sum(1).cpu())
        self.distances.append(per_sample_norm(tuple(a - b for a, b in zip(end, z, strict=True))).cpu())
        return end

    def length(self) -> float:
        """Mean over all samples so far."""
        return float(torch.cat(self.lengths).double().mean())

    def straightness(self) -> float:
        """Mean of way / straight way: 1 is straight. Does not depend on the resolution, as the length does."""
        lengths, distances = torch.cat(self.lengths).double(), torch.cat(self.distances).double()
        moved = distances > 0  # what stays where it is goes no way round
        return float(torch.where(moved, lengths / distances.where(moved, torch.ones_like(distances)), 1.0).mean())


def _watched(velocity: VelocityField, every: int, norms: list[Tensor]) -> Callable[..., Groups]:
    """The field, which leaves its norm where each step begins."""
    calls = 0

    def field(z: Groups, t: Float[Tensor, " B"]) -> Groups:
        nonlocal calls
        v = velocity(z, t)
        if calls % every == 0:
            norms.append(per_sample_norm(v))
        calls += 1
        return v

    return field


def per_sample_norm(groups: Groups) -> Float[Tensor, " B"]:
    """Euclidean norm over all numbers of each sample."""
    return torch.cat([group.float().flatten(1).norm(dim=1) for group in groups])
