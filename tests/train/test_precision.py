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


def test_the_probe_counts_products_per_second(monkeypatch) -> None:
    """A clock of our own: started at 0 s, it is looked at before each product and is past the end at 0.4 s."""
    monkeypatch.setattr(precision, "time", type("Clock", (), {"perf_counter": iter([0.0, 0.1, 0.2, 0.4]).__next__}))
    assert precision._rate(torch.float32) == pytest.approx(2 / 0.4)
