"""One validation pass: raw and averaged weights, the same bits at every world size, and what it leaves."""

from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch

from mmflow.data.module import FlowData
from mmflow.encoders.text import HashedWords
from mmflow.metrics.surface_file import read_surface
from mmflow.shapes.world import World
from mmflow.train.ema import Ema
from mmflow.train.loggers import Chart, RunWandb
from mmflow.train.module import FlowModule
from mmflow.train.validation import Validation, spread
from tests.conftest import random_mmdit

WORLD = World(size=32, frames=4)


def build() -> torch.nn.Module:
    return random_mmdit(1, context_width=32, pooled_width=24, patch_size=8, video_patch_size=(4, 8, 8), base_size=32)


def trainer(folder: Path, module: FlowModule, data: FlowData, rank: int = 0, world_size: int = 1) -> pl.Trainer:
    """As much of a trainer as validation asks for."""
    ema = Ema()
    ema.averages[ema.decays[0]] = {name: p.detach() * 0.5 for name, p in module.backbone.named_parameters()}
    members = dict(
        lightning_module=module,
        datamodule=data,
        callbacks=[ema],
        loggers=[],
        global_rank=rank,
        world_size=world_size,
        is_global_zero=True,
        sanity_checking=False,
        training=False,
        global_step=5,
        default_root_dir=str(folder),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return type("Attached", (pl.Trainer,), {**members, "__init__": lambda self: None})()


@pytest.fixture(scope="module")
def module() -> FlowModule:
    made = FlowModule(random_mmdit)
    made.backbone = build()
    return made


def surface(folder: Path, module: FlowModule, world_size: int) -> dict[str, float]:
    """The scalars of a pass over ranks that are run one after the other."""
    text = HashedWords(width=24, position_width=8)
    data = FlowData(WORLD, text_encoder=text, num_workers=0, val_samples=9, val_batch_size=16, clip_share=0.4)
    module.validation = Validation()
    for rank in range(world_size):
        whole = trainer(folder, module, data, rank, world_size)
        data.trainer = module._trainer = whole
        data.setup("validate")
        for batch in data.val_dataloader():
            module.validation_step(data.on_after_batch_transfer(batch, 0), 0)
    whole = trainer(folder, module, data)
    return module.validation.finish(whole, "ema", 5)


def test_one_rank_and_three_give_the_same_bits(tmp_path: Path, module: FlowModule) -> None:
    one, three = (surface(tmp_path / str(n), module, n) for n in (1, 3))
    assert one == three and {"val/loss", "val_raw/loss", "val/loss_clip/t=0.5"} <= one.keys()
    a, b = (read_surface(tmp_path / str(n)) for n in (1, 3))
    assert a.rows == b.rows and len(a.rows) == 9 and a.kinds == ("ema", "raw") and a.step == 5
    assert a.question["latents"] == {"class": "RgbAutoencoder", "scale": 1.0, "shift": 0.0}
    assert a.mean("ema").value == one["val/loss"] != one["val_raw/loss"] == a.mean("raw").value
    for row in a.rows:
        assert row.losses["ema"] != row.losses["raw"] and row.shape[0] == (1 if row.medium == "picture" else 4)


def test_charts_hold_a_curve_per_validated_step(tmp_path: Path, module: FlowModule) -> None:
    surface(tmp_path, module, 1)
    shown: list[dict[str, Chart]] = []
    wandb = RunWandb(tmp_path, "offline", "p")
    wandb.show = lambda step, charts: shown.append(charts)  # type: ignore[method-assign]
    data = module.trainer.datamodule
    for step in (6, 7):
        whole = trainer(tmp_path, module, data)
        whole.loggers = [wandb]
        module._trainer = data.trainer = whole
        for batch in data.val_dataloader():
            module.validation_step(data.on_after_batch_transfer(batch, 0), 0)
        module.validation.finish(whole, "raw", step)
    charts = shown[-1]
    assert set(charts) <= {"surface/picture", "surface/clip"} and charts
    chart = next(iter(charts.values()))
    assert chart.columns == ("t", "loss", "step") and {row[2] for row in chart.rows} >= {6, 7}
    assert len(chart.rows) == 8 * len({row[2] for row in chart.rows}) and "raw weights" in chart.title


def test_places_are_spread_evenly() -> None:
    assert spread(3, 4) == [0, 1, 2] and spread(9, 3) == [0, 4, 8] and spread(0, 3) == []
