"""A run's training data as planned: order, place, and who reads what."""

from collections.abc import Sequence
from typing import Any, final

from mmflow.data.cost import Cost
from mmflow.data.mix import Mix
from mmflow.data.source import AbstractSource
from mmflow.data.step_size import ShapeShare, StepSize, shares_of_compute
from mmflow.data.train_order import TrainOrder


@final
class Training:
    """What a run trains on, in which steps.

    Args:
        mix: sources and their shares.
        step_size: of the steps.
        costs: of samples.
        epochs: passes over the shards after which the run ends, or None.
        world_size: ranks.
        accumulate: `trainer.accumulate_grad_batches`, as it was asked for.

    Raises:
        ValueError: if no plan can be made so.
    """

    def __init__(
        self,
        mix: Mix,
        step_size: StepSize,
        costs: Cost,
        epochs: int | None,
        world_size: int,
        accumulate: int,
    ) -> None:
        self._mix, self._step_size, self._costs = mix, step_size, costs
        sources, weights = mix.train
        self.size = sum(source.size or 0 for source in sources) or None
        """Samples of a pass; None is endless."""
        if epochs is not None and self.size is None:
            raise ValueError("data.epochs needs shards: the shapes world never ends. Use trainer.max_steps")
        shapes = mix.shapes()
        self.dealing = step_size.dealing(costs, self._shares(sources, weights), world_size, accumulate)
        about: dict[str, Any] = {"seed": mix.seed, "world": mix.name() if mix.train_shards is None else None}
        end = None if epochs is None or self.size is None else epochs * self.size
        self.order = TrainOrder(
            sources,
            weights,
            step_size.filling(costs, mix.seed),
            about | step_size.about(costs, shapes),
            end,
            mix.excluded,
        )
        self._changed: list[str] = []

    def _shares(self, sources: Sequence[AbstractSource], weights: Sequence[float]) -> list[ShapeShare]:
        """Every shape, with its medium's share. Of k sources each is less than k - 1 samples from its own."""
        shapes, number = self._mix.shapes(), len(sources)
        if self._mix.train_shards is not None and self._mix.framing.frames == 1:
            return [ShapeShare(shape, 1.0) for shape in shapes]  # pictures and clips cannot be told apart
        shares = []
        for shape in shapes:
            of = [
                weight
                for source, weight in zip(sources, weights, strict=True)
                if (source.medium == "picture") == (shape[0] == 1)
            ]
            spread = min(len(of), number - len(of)) * (number - 1)
            shares.append(ShapeShare(shape, sum(of) / sum(weights), spread))
        return shares

    def take_up(self, state: dict[str, Any]) -> None:
        """Continues at a checkpoint's place.

        Raises:
            ValueError: if that place is counted in another seed's or world's order.
        """
        self._changed = self.order.take_up(state)

    def end_in_time(self, trainer: Any) -> None:
        """Ends the run after its epochs, if it has some, in optimizer steps from its start; `max_steps` may end it
        before.
        """
        order, loop = self.order, trainer.fit_loop.epoch_loop
        if order.plan.end is not None:
            steps = order.steps + order.plan.num_steps(order.position, order.plan.end)
            loop.max_steps = steps if loop.max_steps < 0 else min(steps, loop.max_steps)

    def describe(self) -> list[str]:
        """What is trained on and in which steps, in lines for people."""
        shares = shares_of_compute(self.order.plan, self._costs, self.order.position)
        lines = [*self._mix.describe(), *(shares if len(shares) > 1 else []), self._step_size.describe(self.dealing)]
        if self._changed:
            place = f"a new segment of the plan begins at sample {self.order.position}"
            lines += [f"data: changed, {place}:", *(f"  {line}" for line in self._changed)]
        return lines
