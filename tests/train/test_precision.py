"""The precision of a run: what is asked, or what the machine is fast at."""

import pytest
import torch

from mmflow.train import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_what_is_asked_is_taken_without_a_probe(monkeypatch, asked) -> None:
    monkeypatch.setattr(precision, "_rate", lambda dtype: pytest.fail("probed"))
    assert precision.choose(asked, CPU) == asked


@pytest.mark.parametrize(("gain", "chosen"), [(0.1, "fp32"), (1.1, "fp32"), (1.3, "bf16"), (8.0, "bf16")])
def test_a_cpu_takes_bf16_where_that_is_clearly_faster(monkeypatch, gain: float, chosen: str) -> None:
    monkeypatch.setattr(precision, "_rate", lambda dtype: gain if dtype == torch.bfloat16 else 1.0)
    assert precision.choose("auto", CPU) == chosen


@pytest.mark.parametrize("has", [True, False])
def test_an_accelerator_takes_bf16_if_it_has_it(monkeypatch, has: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has)
    assert precision.choose("auto", torch.device("cuda")) == ("bf16" if has else "fp32")


def test_the_probe_takes_the_best_product(monkeypatch) -> None:
    """A clock of our own: begun at 0 s, products of 0.04, 0.02, 0.03 and 0.05 s, the last of which ends past 0.1 s."""
    times = iter([0.0, 0.0, 0.04, 0.04, 0.06, 0.06, 0.09, 0.10, 0.15])
    monkeypatch.setattr(precision, "time", type("Clock", (), {"perf_counter": times.__next__}))
    assert precision._rate(torch.float32) == pytest.approx(1 / 0.02)
    assert next(times, None) is None


def test_the_probe_takes_three_products_however_slow_they_are(monkeypatch) -> None:
    times = iter([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 2.5])
    monkeypatch.setattr(precision, "time", type("Clock", (), {"perf_counter": times.__next__}))
    assert precision._rate(torch.float32) == pytest.approx(2.0)
