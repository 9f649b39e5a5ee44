"""The two numbers of a utilisation, and the share that a run states."""

from types import SimpleNamespace
from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch

from mmflow.batch import Batch, Conditioning
from mmflow.model.mmdit import MMDiT
from mmflow.planning import peak
from mmflow.planning.flops import load_of, step_flops
from mmflow.planning.mfu import Utilisation
from mmflow.train.throughput import Throughput
from tests.conftest import features

BF16, CPU = torch.bfloat16, torch.device("cpu")


def batch(lengths: list[int]) -> Mock:
    z = torch.empty(2, 4, 1, 8, 8), torch.empty(0, 4, 1, 4, 4), torch.empty(1, 4, 4, 8, 8)
    return Mock(spec=Batch, latents=z, conditioning=Conditioning(features(lengths, 32, 24)))


def test_a_bag_costs_what_its_samples_cost() -> None:
    with torch.device("meta"):
        model = MMDiT(3, 4, 32, 24, 2, (2, 2, 2), 8)
    shapes = [(1, 8, 8), (1, 8, 8), (4, 8, 8)]
    loads = [load_of(model, shape, 1, n) for shape, n in zip(shapes, [3, 9, 14], strict=True)]
    assert Utilisation().flops(model, batch([3, 9, 14])) == pytest.approx(step_flops(model, loads).total, rel=1e-12)
    assert Utilisation().flops(torch.nn.Linear(2, 2), batch([3, 9, 14])) is None


@pytest.mark.parametrize(
    ("name", "flops"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A100-SXM4-40GB", 312e12), ("NVIDIA GeForce RTX 4090", 165e12)],
)
def test_accelerators_are_known_by_the_driver_s_name(name: str, flops: float) -> None:
    assert peak.named(name, BF16).flops == flops


def test_what_is_not_known_is_said() -> None:
    assert peak.named("Voodoo 2", BF16).flops == 0 and "Voodoo 2" in peak.named("Voodoo 2", BF16).source
    assert "bf16 only" in peak.named("NVIDIA H100", torch.float32).source
    assert peak.peak_of(torch.device("meta"), BF16).flops == 0


def test_a_processor_is_probed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(peak, "PROBE_SIDE", 64)
    peak._probed.cache_clear()
    first = peak.peak_of(CPU, torch.float32)
    assert first.flops > 0 and "3 products 64^3" in first.source
    assert peak.peak_of(CPU, torch.float32) is first
    peak._probed.cache_clear()


def test_the_share_is_flops_over_seconds_and_peak(capsys: pytest.CaptureFixture[str]) -> None:
    meter = SimpleNamespace(peak=lambda device, dtype: (100.0, "given"), flops=lambda network, batch: 30.0)
    speed = Throughput(meter=meter)
    module = Mock(spec=pl.LightningModule, device=CPU, autocast_dtype=None)
    speed.on_train_start(Mock(spec=pl.Trainer, is_global_zero=True), module)
    formula = "MFU = FLOPs of the products, forward and backward / (seconds x 1e-10 TFLOP/s a rank), given\n"
    assert capsys.readouterr().out == formula
    assert speed._peak == 100 and speed.mfu is None
    speed._flops = 60.0
    speed._marks.extend([(1.0, 0, 0, 0.0), (2.0, 8, 8, 30.0), (3.0, 16, 16, 60.0)])
    assert speed.mfu == pytest.approx(0.3)
