"""One optimizer step again, and the samples of it that spoiled its gradients, found by halving."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mmflow.batch import Batch, Conditioning, Key
from mmflow.train.guard import gradient_norm

T = TypeVar("T")
CARRIES = 0.5
"""Of finite gradients, what has at least this share of the step's norm is suspected: of two halves one always has."""


class DoneError(Exception):
    """The step was repeated up to its gradients; what comes after it is not wanted."""


@dataclass(frozen=True)
class MicroStep:
    """A batch, and what its density knew before it.

    Attributes:
        batch: on the device, with latents.
        density: state of a density that learns; empty otherwise.
    """

    batch: Batch
    density: dict[str, Tensor]


@final
class Catch(Callback):
    """Keeps the micro-steps of one optimizer step and the norm of its gradients, and ends the run there.

    Args:
        step: optimizer steps before it.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self.micro_steps: list[MicroStep] = []
        self.losses: dict[tuple[Key, int], float] = {}
        """By key and visit."""
        self.norm = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            self.micro_steps.append(MicroStep(batch, density_of(pl_module)))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        if trainer.global_step == self.step:
            keys, visits, losses, _ = pl_module.last_samples
            self.losses |= dict(zip(zip(keys, visits, strict=True), losses.tolist(), strict=True))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.global_step == self.step:
            self.norm = gradient_norm(pl_module.backbone)  # type: ignore[arg-type]
            raise DoneError


def density_of(module: Any) -> dict[str, Tensor]:
    """What a density that learns knows by now; empty for others."""
    density = getattr(module, "density", None)
    return {} if density is None else {name: value.clone() for name, value in density.state_dict().items()}


@dataclass(frozen=True)
class One:
    """A sample of a step.

    Attributes:
        key: whose.
        visit: passes over its source before.
        t: time.
        loss: its own, which no other sample of its pack has a part in.
    """

    key: Key
    visit: int
    t: float
    loss: float


@dataclass(frozen=True)
class Seen:
    """Samples taken together.

    Attributes:
        samples: one or several of a micro-step.
        gradient_norm: of their share of the step's loss.
    """

    samples: tuple[One, ...]
    gradient_norm: float

    def is_number(self) -> bool:
        """Whether it could be learned from."""
        return all(map(math.isfinite, (self.gradient_norm, *(sample.loss for sample in self.samples))))


def part(batch: Batch, samples: Sequence[int]) -> Batch:
    """Some samples of a batch as a batch of their own, by their places in it, ascending."""
    assert batch.latents is not None and batch.conditioning is not None
    known, text, framed = batch.conditioning.known, batch.conditioning.text, batch.conditioning.framed
    latents, eps, given, first = [], [], [], 0
    for group, (z, noise) in enumerate(zip(batch.latents, batch.eps, strict=True)):
        own = [i - first for i in samples if first <= i < first + len(z)]
        first += len(z)
        if own:
            latents.append(z[own])
            eps.append(noise[own])
            given += [] if known is None else [known[group].select(own)]
    return dataclasses.replace(
        batch,
        latents=tuple(latents),
        eps=tuple(eps),
        u=batch.u[list(samples)],
        keys=tuple(batch.keys[i] for i in samples),
        visits=tuple(batch.visits[i] for i in samples),
        conditioning=Conditioning(
            text.select(list(samples)),
            None if known is None else tuple(given),
            None if framed is None else framed[list(samples)],
        ),
    )


def gradients(module: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Losses and times (B,) of a batch, its gradients left in the network: a step's arithmetic without a trainer."""
    module.zero_grad()
    with module.autocast():
        loss, t = module.objective(module.backbone, batch.latents, batch.conditioning, batch.u, batch.eps)
    (loss.sum() / batch.planned).backward()
    return loss.detach(), t.detach()


def take(module: Any, micro_step: MicroStep, samples: Sequence[int]) -> Seen:
    """Losses and gradients of some samples of a micro-step."""
    batch = part(micro_step.batch, samples)
    if micro_step.density:
        module.density.load_state_dict(micro_step.density)  # it has learned since, and draws t
    loss, t = gradients(module, batch)
    ones = zip(batch.keys, batch.visits, t.tolist(), loss.tolist(), strict=True)
    return Seen(tuple(One(*one) for one in ones), gradient_norm(module.backbone))


def bisect(
    samples: Sequence[int], take: Callable[[Sequence[int]], T], is_bad: Callable[[T], bool]
) -> Iterator[tuple[Sequence[int], T]]:
    """Halves what is bad until it is single samples, or both halves of it are good: then it is bad together only.

    Takes about 2 log2(n) looks for each bad one of n.
    """
    found = take(samples)
    if not is_bad(found):
        return
    middle = len(samples) // 2
    halves = (samples[:middle], samples[middle:]) if middle else ()
    smaller = [each for half in halves for each in bisect(half, take, is_bad)]
    yield from smaller or [(samples, found)]


def culprits(module: Any, micro_steps: Sequence[MicroStep], norm: float) -> tuple[list[Seen], int]:
    """What spoiled a step, and the looks that finding it took.

    Those whose gradients are no numbers; if the step's are, those that have at least half of their norm.

    Args:
        module: as it was before the step.
        micro_steps: all of the step.
        norm: of the step's gradients.
    """
    found, looks = [], 0
    for micro_step in micro_steps:

        def look(samples: Sequence[int], micro_step: MicroStep = micro_step) -> Seen:
            nonlocal looks
            looks += 1
            return take(module, micro_step, samples)

        def is_bad(seen: Seen) -> bool:
            return not seen.is_number() or (math.isfinite(norm) and seen.gradient_norm >= CARRIES * norm)

        if len(micro_step.batch):
            found += [seen for _, seen in bisect(range(len(micro_step.batch)), look, is_bad)]
    return sorted(found, key=_worst_first), looks


def each_alone(module: Any, micro_steps: Sequence[MicroStep]) -> list[Seen]:
    """Every sample of a step alone, those first that are no numbers, then by the norm of their gradients."""
    seen = [take(module, micro, [i]) for micro in micro_steps for i in range(len(micro.batch))]
    return sorted(seen, key=_worst_first)


def _worst_first(seen: Seen) -> tuple[bool, float]:
    return seen.is_number(), -seen.gradient_norm
