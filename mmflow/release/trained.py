"""A run's model, its weights still on disk, and what of it the published layouts can hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from mmflow.model.interop import without_memory
from mmflow.model.layouts import Shape
from mmflow.model.mmdit import MMDiT
from mmflow.model.sizes import shape_of
from mmflow.release.card import Facts
from mmflow.train.stock import obstacles, text_layout, verdict
from mmflow.train.storage import read_plain
from mmflow.train.weights import check_weights, find_checkpoint, load_weights, only

TABLE = "position_table"
SMALLEST_TABLE = 192
"""Side of the position table of a model that computes its positions: as large as SD3's."""


@final
@dataclass(frozen=True)
class Trained:
    """A run's model, its weights still on disk.

    Attributes:
        module: FlowModule, its network without memory.
        data: FlowData.
        weights: the network's tensors, under its own names.
        config: the run's resolved configuration as YAML.
        facts: for the card.
    """

    module: Any
    data: Any
    weights: Mapping[str, Tensor]
    config: str
    facts: Facts


def open_run(run: Path, kind: str | None = None, licence: str | None = None, pictures_only: bool = False) -> Trained:
    """The model of a run directory.

    Args:
        run: with `config.yaml` and `checkpoints/`.
        kind: `ema`, `ema:DECAY` or `raw` weights; the run's own `sampling.weights` if None.
        licence: of the weights, for the card.
        pictures_only: of a model of clips take the picture half.

    Raises:
        ValueError: if there is no run or no checkpoint, or the weights do not fit the configuration.
    """
    from mmflow.cli import build

    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run} is no run directory: it has no config.yaml")
    module, data = build(run / "config.yaml")
    path = find_checkpoint(run)
    kind = kind or module.sampling.weights
    weights = load_weights(f"{path}@{kind}")
    check_weights(weights, module.backbone.state_dict(), str(path))
    if pictures_only and isinstance(module.backbone, MMDiT):
        module.backbone.drop_clips()
        weights = only(weights, module.backbone.state_dict())
    sampling, shift = module.sampling, module.objective.shift
    facts = Facts(
        title=run.resolve().name,
        step=read_plain(path)["global_step"],
        weights="averaged" if kind.startswith("ema") else "raw",
        base=module.init_from,
        licence=licence,
        shift=str(getattr(shift, "value", shift)),
        text_layout=text_layout(data.encoders),
        sampling=(sampling.num_steps, sampling.guidance_scale, type(sampling.solver).__name__),
        size=(data.resolution, data.resolution),
        verdict=verdict(obstacles(module, data.encoders)),
        notes=[],
    )
    return Trained(module, data, weights, (run / "config.yaml").read_text(), facts)


def grids(trained: Trained) -> set[tuple[int, int]]:
    """Patches along (height, width) of the pictures and frames that the model was trained on."""
    backbone, found = trained.module.backbone, set()
    for _, height, width in trained.data.mix.shapes():
        h, w = trained.data.encoders.latent_shape(1, height, width)[2:]
        found.add(backbone.picture_patchifier.grid((1, h, w))[1:])
    return found


def picture_half(trained: Trained) -> tuple[Shape, Mapping[str, Tensor], list[str]]:
    """Shape and weights of the model that the published layouts can hold, with a position table; and what to know.

    A model that computes its positions gets the table that its formula makes, of a side whose centre crops are the
    formula's: even for even numbers of patches, odd for odd ones.
    """
    backbone: MMDiT = trained.module.backbone
    shape = shape_of(backbone)
    if shape.table is not None:
        return shape, trained.weights, []
    sides = {n for grid in grids(trained) for n in grid}
    parity = max(sides) % 2
    size = max(SMALLEST_TABLE + parity, max(sides) + (max(sides) - parity) % 2)
    notes = []
    if len({n % 2 for n in sides}) > 1:
        notes.append(
            f"Positions: the run computed them, the stock programs crop a table of {size} patches. At sizes with an "
            f"{'even' if parity else 'odd'} number of patches along a side these are half a patch apart; train with "
            f"model.backbone.design.position_table {size} to have one for both."
        )
    return replace(shape, table=size), WithTable(trained.weights, backbone, size), notes


@final
class WithTable(Mapping):  # of tensors by name; left open, or a checker of types would read one to see
    """A model's tensors and the position table that its formula makes, which is made when it is asked for.

    Args:
        weights: of the model, read one at a time.
        backbone: whose formula it is.
        size: of the table, in patches along a side.
    """

    def __init__(self, weights: Mapping[str, Tensor], backbone: MMDiT, size: int) -> None:
        self.weights, self.backbone, self.size = weights, backbone, size

    def __getitem__(self, name: str) -> Tensor:
        return self._table("cpu") if name == TABLE else self.weights[name]

    def _table(self, device: str) -> Tensor:
        return self.backbone.formula_table(self.size, torch.device(device))

    def meta(self) -> dict[str, Tensor]:
        """Tensors of the same shapes without memory."""
        return {**without_memory(self.weights), TABLE: self._table("meta")}

    def __iter__(self) -> Iterator[str]:
        return iter([*self.weights, TABLE])

    def __len__(self) -> int:
        return len(self.weights) + 1
