"""Variance of the gradient at the weights of a study's trained cells, measured and printed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from mmflow import draws
from mmflow.batch import Conditioning
from mmflow.study.plan import Cell, Study
from mmflow.study.table import Row, label_columns
from mmflow.study.variance import DRAWS, TAUGHT, Samples, densities, spread

KINDS = ("new", "same")
"""Of steps: new samples and noise in each, as training sees them; the same in all, so that only t varies."""


def measure_cell(study: Study, cell: Cell, weights: str, num_steps: int, batch_size: int) -> Iterator[Row]:
    """One row for each density and way to draw u; the first is of independent draws from the plain density.

    Args:
        study: of which the cell is.
        cell: whose weights are here.
        weights: `raw` or `ema`.
        num_steps: to measure over.
        batch_size: samples of a step.
    """
    from mmflow.cli import build
    from mmflow.train.weights import load_weights

    folder = study.folder(cell)
    module, data = build(folder / "run" / "config.yaml")
    module.configure_model()
    network, objective = module.backbone, module.objective
    network.load_state_dict(load_weights(str(folder / f"{weights}.safetensors")))
    made = [samples(data, range(i * batch_size, (i + 1) * batch_size)) for i in range(max(num_steps, TAUGHT))]
    for name, density in densities(network, objective, made.__getitem__).items():
        for how, uniforms in DRAWS.items():
            row = {**cell.labels, "weights": weights, "steps": num_steps, "batch": batch_size, "t": name, "u": how}
            for kind in KINDS:
                steps = made.__getitem__ if kind == "new" else lambda i: made[0]
                found = spread(network, replace(objective, density=density), steps, uniforms, num_steps)
                row |= {f"loss_{kind}": found.loss, f"gradient_{kind}": found.gradient}
                row[f"gradient_{kind}_error"] = found.gradient_error
            yield row


def samples(data: Any, places: range) -> Samples:
    """Pictures of the world's training split with their captions, and noise of their own.

    Raises:
        ValueError: if the data are no shapes world.
    """
    if not data.is_shapes:
        raise ValueError("the variance is measured on pictures of the shapes world: data.train_shards has none")
    items = [data.world.picture(data.seed, "train", place) for place in places]
    pixels = torch.stack([torch.from_numpy(item.frames).permute(3, 0, 1, 2) for item in items])
    latents = data.encoders.latents((pixels,), None)
    text = data.encoders.text.encode([item.caption for item in items])
    eps = [draws.normal(0, "eps", ("variance", str(place)), 0, latents[0].shape[1:]) for place in places]
    return latents, Conditioning(text), (torch.stack(eps),)


def variance_table(rows: Sequence[Row]) -> Table:
    """For people: every cell's rows relative to its first."""
    grid = Table(title="Variance between steps, relative to the first line of the cell", title_justify="left")
    for name in ("cell", "t", "u", "loss", "gradient", "same samples: loss", "gradient"):
        grid.add_column(name, justify="left" if name in ("cell", "t", "u") else "right")
    first: dict[str, Row] = {}
    for row in rows:
        cell = ", ".join(row[name] for name in label_columns(rows))
        base = first.setdefault(cell, row)
        figures = []
        for kind in KINDS:
            error = row[f"gradient_{kind}_error"] / base[f"gradient_{kind}"]
            figures.append(f"{row[f'loss_{kind}'] / base[f'loss_{kind}']:.3f}")
            figures.append(f"{row[f'gradient_{kind}'] / base[f'gradient_{kind}']:.3f} ± {error:.3f}")
        grid.add_row(escape(cell), row["t"], row["u"], *figures)
    return grid
