"""How much the gradient of a trained network varies between steps, by how t is drawn."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmflow import draws
from mmflow.flow.adaptive import Adaptive
from mmflow.flow.density import AbstractDensity, AbstractSampler
from mmflow.flow.objective import FlowObjective

GROUPS = 8
"""Parts of the steps, each of which estimates the variance by itself: their spread is its standard error."""
TAUGHT = 32
"""Steps from which an adaptive density learns before anything is measured."""
Samples = tuple[tuple[Tensor, ...], Any, tuple[Tensor, ...]]
"""Clean latents, conditioning and noise of one step."""


@dataclass(frozen=True)
class Spread:
    """Variance between steps.

    Attributes:
        loss: of the step's mean loss.
        gradient: of its gradient, summed over all parameters.
        gradient_error: standard error of that.
    """

    loss: float
    gradient: float
    gradient_error: float


def spread(
    network: nn.Module,
    objective: FlowObjective,
    steps: Callable[[int], Samples],
    uniforms: Callable[[int, int], Float[Tensor, " B"]],
    num_steps: int,
) -> Spread:
    """Of steps whose samples are `steps(i)` and whose t come from `uniforms(i, B)`; the network does not learn.

    Raises:
        ValueError: if the steps do not make `GROUPS` groups of two or more.
    """
    if num_steps % GROUPS or num_steps < 2 * GROUPS:
        raise ValueError(f"the number of steps must be a multiple of {GROUPS} from {2 * GROUPS} on, got {num_steps}")
    parameters, size = [p for p in network.parameters() if p.requires_grad], num_steps // GROUPS
    losses, traces = [], []
    for group in range(GROUPS):
        total = [torch.zeros_like(p) for p in parameters]
        squares = 0.0
        for i in range(group * size, (group + 1) * size):
            x0, conditioning, eps = steps(i)
            loss = objective(network, x0, conditioning, uniforms(i, sum(map(len, x0))), eps)[0].mean()
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            for own, gradient in zip(total, gradients, strict=True):
                own += gradient
            squares += sum(float(gradient.double().square().sum()) for gradient in gradients)
            losses.append(loss.item())
        mean_square = sum(float((own.double() / size).square().sum()) for own in total)
        traces.append((squares - size * mean_square) / (size - 1))
    return Spread(float(np.var(losses, ddof=1)), float(np.mean(traces)), float(np.std(traces, ddof=1) / GROUPS**0.5))


def independent(i: int, num: int) -> Float[Tensor, " B"]:
    """Uniforms of step `i`, each drawn by itself."""
    return draws.uniform(0, "u", ("variance", "independent"), i, (num,))


def even(i: int, num: int) -> Float[Tensor, " B"]:
    """Uniforms of step `i` as `data.low_discrepancy` spreads them over the order of the samples."""
    places = range(i * num, (i + 1) * num)
    return torch.tensor([draws.low_discrepancy(0, "u", 0, place) for place in places], dtype=torch.float32)


DRAWS = {"independent": independent, "low-discrepancy": even}


@final
@dataclass(frozen=True)
class Still(AbstractDensity):
    """A density that has learned enough: as `of` is now, told nothing any more."""

    of: AbstractDensity

    def quantile(self, u: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.of.quantile(u)

    def pdf(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.of.pdf(t)

    def weight(self, t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.of.weight(t)


def densities(
    network: nn.Module, objective: FlowObjective, steps: Callable[[int], Samples]
) -> dict[str, AbstractDensity]:
    """The density that says what the objective is, and the adaptive one over it, which learns here from the network.

    Only the former where it weighs instead of drawing.
    """
    density = objective.density
    plain = density.base if isinstance(density, Adaptive) else density
    if not isinstance(plain, AbstractSampler):
        return {"plain": plain}
    adaptive = deepcopy(density) if isinstance(density, Adaptive) else Adaptive(plain)
    learning = replace(objective, density=adaptive)
    with torch.no_grad():
        for i in range(TAUGHT):
            x0, conditioning, eps = steps(i)
            learning(network, x0, conditioning, independent(-1 - i, sum(map(len, x0))), eps)
    return {"plain": plain, "adaptive": Still(adaptive)}
