"""One start of a run that is to be certified: the user's own, traced, and killed where it is told to be."""

from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from mmflow.certify import Start
from mmflow.cli import MmflowCLI
from mmflow.data.train_order import TrainOrder
from mmflow.train.trace import Trace


def inspect(args: list[str]) -> tuple[Path, bool]:
    """The run directory of a configuration, and whether its data has passes (the shapes world has none).

    Raises:
        ValueError: if it cannot be built.
    """
    cli = MmflowCLI(["fit", *args], for_use=False)
    trainer: Any = cli.trainer
    data: Any = cli.datamodule
    return Path(trainer.default_root_dir), not data.is_shapes


def run(start: Start) -> None:
    """Does a start, to its end or until it kills itself."""
    cli = MmflowCLI(start.command_line())
    trainer: Any = cli.trainer
    callbacks: list[Callback] = trainer.callbacks
    if start.at_edge:
        callbacks.append(AtEdge(start.steps))
    callbacks.append(Trace(Path(start.trace), start.kill_after))
    cli.run()


@final
class AtEdge(Callback):
    """Begins a new run so that the first pass to end does so about half its steps later.

    A checkpoint's own place, which is read after this, takes precedence.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit":
            order: TrainOrder = data._training.order
            order.position = place_before_edge(order, self._steps // 2)


def place_before_edge(order: TrainOrder, steps: int) -> int:
    """Where a step begins that is about so many steps before one of a pass's second samples."""
    edge = next_edge(order)
    start = max(0, edge - order.plan.window)
    places = [start - start % order.plan.window]
    while (step := order.plan.step(places[-1])) is not None and step.next_position <= edge:
        places.append(step.next_position)
    return places[max(0, len(places) - 1 - steps)]


def next_edge(order: TrainOrder) -> int:
    """The first position that is of a source's second pass."""
    sizes = [source.size for source in order.sources]
    low, high = 0, 1

    def beyond(position: int) -> bool:
        counts = order.plan.interleave.counts(position)
        return any(size is not None and count > size for size, count in zip(sizes, counts, strict=True))

    while not beyond(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high - 1
