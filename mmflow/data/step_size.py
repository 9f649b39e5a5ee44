"""How large a step is and over what it is dealt: the batch contract of a run."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from mmflow.data.cost import Cost, Shape, micro_steps
from mmflow.data.deal import Dealing
from mmflow.data.legal import LatentShape
from mmflow.data.plan import Filling, Plan

Packing = Literal["packed", "bucketed"]
DEFAULT = 64
"""Samples of a step where nothing says its size."""
LONGEST = 1_000_000
"""Characters of a caption that every encoder cuts."""
MEDIA_OF = {True: "pictures", False: "clips"}


@dataclass(frozen=True)
class ShapeShare:
    """A shape that samples can have, and how many of a step are of its medium.

    Attributes:
        shape: T x H x W pixels.
        share: of the medium.
        spread: the most by which a stretch of the plan differs from that share, exclusive; 0 is not at all.
    """

    shape: Shape
    share: float
    spread: int = 0

    def most(self, samples: int) -> int:
        """Of a step of so many samples."""
        reach = self.share * samples + self.spread
        return math.ceil(reach - 1e-6) - (self.spread > 0)


@dataclass(frozen=True)
class StepSize:
    """What `data` says of its steps.

    Attributes:
        batch_size: samples per optimizer step over all ranks and micro-steps, or None.
        step_budget: its cost instead.
        tokens_per_device: the most tokens of a rank in a micro-step, or None.
        packing: shapes mixed in a step, or one shape per step.
    """

    batch_size: int | None
    step_budget: float | None
    tokens_per_device: int | None
    packing: Packing

    @staticmethod
    def of(
        batch_size: int | None, step_budget: float | None, tokens_per_device: int | None, packing: Packing
    ) -> "StepSize":
        """Checked, with the default where none is stated.

        Raises:
            ValueError: if both sizes are stated, or a number is not positive.
        """
        if batch_size is not None and step_budget is not None:
            raise ValueError(
                f"data.batch_size {batch_size} and data.step_budget {step_budget:g} both say how large a step is: "
                "state one, and leave or set the other to null"
            )
        for name, number in (
            ("batch_size", batch_size),
            ("step_budget", step_budget),
            ("tokens_per_device", tokens_per_device),
        ):
            if number is not None and number < 1:
                raise ValueError(f"data.{name} must be at least 1, got {number}")
        if step_budget is None and batch_size is None:
            batch_size = DEFAULT
        return StepSize(batch_size, step_budget, tokens_per_device, packing)

    @property
    def chunk(self) -> int:
        """Samples of a batch that is not of training."""
        return self.batch_size or DEFAULT

    def filling(self, costs: Cost, seed: int) -> Filling:
        """What fills a step."""
        return Filling(self.batch_size, self.step_budget, costs, self.packing == "bucketed", seed)

    def about(self, costs: Cost, shapes: Sequence[Shape]) -> dict[str, Any]:
        """What the order depends on."""
        own: dict[str, Any] = {"batch_size": self.batch_size, "step_budget": self.step_budget, "packing": self.packing}
        if self.packing == "bucketed" or self.step_budget is not None:
            own["buckets"] = [list(shape) for shape in shapes]
        if self.step_budget is not None:
            own["bucket_costs"] = [costs.of(shape, 0)[1] for shape in shapes]
        return own

    def dealing(self, costs: Cost, shares: Sequence[ShapeShare], world_size: int, asked: int) -> Dealing:
        """Over ranks and micro-steps. Their number follows from the cap; without one it is what the trainer is told.

        Args:
            costs: of samples.
            shares: every shape that there can be.
            world_size: ranks.
            asked: `trainer.accumulate_grad_batches`; 1 says nothing.

        Raises:
            ValueError: if one sample is above the cap or the budget, or `asked` contradicts the cap.
        """
        largest = {each.shape: costs.of(each.shape, LONGEST) for each in shares}
        for shape, (tokens, price) in largest.items():
            said = f"a sample of {' x '.join(map(str, shape))} pixels with the longest caption has"
            if self.tokens_per_device is not None and tokens > self.tokens_per_device:
                raise ValueError(
                    f"{said} {tokens} tokens, above data.tokens_per_device {self.tokens_per_device}: raise it, or "
                    "lower data.resolution or data.frames"
                )
            if self.step_budget is not None and price > self.step_budget:
                raise ValueError(f"{said} a cost of {price:.0f}, above data.step_budget {self.step_budget:g}: raise it")
        if self.tokens_per_device is None:
            return Dealing(world_size, asked, costs)
        accumulate = self._micro_steps(costs, largest, shares, world_size)
        if asked not in (1, accumulate):
            raise ValueError(
                f"trainer.accumulate_grad_batches {asked} contradicts data.tokens_per_device "
                f"{self.tokens_per_device}, from which {accumulate} follows with {world_size} rank(s): leave it out"
            )
        return Dealing(world_size, accumulate, costs, self.tokens_per_device)

    def _micro_steps(
        self, costs: Cost, largest: dict[Shape, tuple[int, float]], shares: Sequence[ShapeShare], ranks: int
    ) -> int:
        assert self.tokens_per_device is not None
        most = {shape: tokens for shape, (tokens, _) in largest.items()}
        if self.step_budget is not None:  # a token costs at least 1
            least = {shape: int(self.step_budget / costs.of(shape, 0)[1]) for shape in largest}
            samples, tokens = max(least.values()), int(self.step_budget)
            kinds = [(most[shape], least[shape]) for shape in largest]
        else:
            samples, tokens = self.chunk, self.chunk * max(most.values())
            kinds = list(self._kinds(most, shares))
        return micro_steps(kinds, samples, tokens, self.tokens_per_device, ranks)

    def _kinds(self, most: dict[Shape, int], shares: Sequence[ShapeShare]) -> Iterator[tuple[int, int]]:
        """(tokens of the largest, the most in a step) of pictures and of clips; in buckets any can be all of a step."""
        size = self.chunk
        for is_picture in (True, False):
            of = [each for each in shares if (each.shape[0] == 1) == is_picture]
            if of:
                number = size if self.packing == "bucketed" else min(size, of[0].most(size))
                yield max(most[each.shape] for each in of), number

    def describe(self, dealing: Dealing) -> str:
        """The contract in a line."""
        size = f"{self.batch_size} samples" if self.batch_size is not None else f"cost {self.step_budget:g}"
        line = f"step: {size} = {dealing.world_size} rank(s) x {dealing.accumulate} micro-step(s)"
        if dealing.cap is not None:
            line += f", <= {dealing.cap} tokens each"
        return line + (", one shape per step" if self.packing == "bucketed" else "")


def shares_of_compute(plan: Plan, costs: Cost, first: int, samples: int = 2048) -> list[str]:
    """Shares of samples, tokens and compute of each source of a plan, over its next samples; in lines for people."""
    seen: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    compute: dict[int, float] = {}
    named: dict[int, str] = {}
    stop = first + samples if plan.end is None else min(first + samples, plan.end)
    for item in (plan.item(position) for position in range(first, stop)):
        seen[item.source] += 1
        tokens[item.source] += costs.tokens(item)
        compute[item.source] = compute.get(item.source, 0.0) + costs(item)
        named.setdefault(item.source, f"{item.key[0]}'s {MEDIA_OF[item.shape[0] == 1]}")

    def percent(counts: Mapping[int, float], source: int) -> str:
        return f"{counts[source] / sum(counts.values()):.1%}"

    return [
        f"shares: {named[source]}: {percent(seen, source)} of the samples, {percent(tokens, source)} of the tokens, "
        f"{percent(compute, source)} of the compute"
        for source in sorted(seen)
    ]


@runtime_checkable
class Model(Protocol):
    """What planning asks of a model."""

    width: int

    def check_shape(self, frames: int, height: int, width: int) -> int:
        """Visual tokens of latents of T x H x W."""


def make_cost(
    latent_shape: LatentShape, model: Model, context: Callable[[int], int], attention: float | None = None
) -> Cost:
    """Tokens and costs of samples as a model takes them; `context` gives the tokens of a caption's characters, and
    `attention` is `Cost.attention`."""
    return Cost(lambda t, h, w: model.check_shape(*latent_shape(t, h, w)[1:]), context, model.width, attention)
