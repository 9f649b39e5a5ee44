"""tools/bench.py: its arithmetic in closed form, and each group once on the smallest work there is."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tools_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(TOOLS))
    yield


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_ratios_intervals_and_verdicts() -> None:
    bench = load("bench_measure")
    faster = bench.Figure("a", (1.0, 2.0, 1.0), (1.5, 2.4, 1.1), 1.2)
    assert faster.ratio == pytest.approx(1.2) and faster.interval == pytest.approx((1.1, 1.5)) and faster.reached
    within = bench.Figure("b", (1.0, 2.0, 1.0), (1.0, 1.0, 1.0), 1.1, "within")
    assert within.ratio == 1 and within.interval == (1, 2) and within.reached
    assert not bench.Figure("c", (1.2,), (1.0,), 1.1, "within").reached
    assert bench.Figure("d", (9.0,), (1.0,), 1.1, "told").reached
    assert bench.Figure("e", (2.0,), (1.0,), 1.0, flops=10.0, peak=20.0).mfu == pytest.approx(0.25)
    assert bench.Figure.of_json(json.loads(json.dumps(faster.as_json()))) == faster


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 1), (7, 1), (8, 2), (15, 4), (21, 7)])
def test_order_statistics_hold_the_median(n: int, k: int) -> None:
    """1 - 2 P(Binomial(n, 1/2) < k) >= 0.9, from the tables of the sign test."""
    assert load("bench_measure").order_statistic(n) == k


def test_who_goes_first_changes() -> None:
    bench, order = load("bench_measure"), []
    ours, peer = bench.interleaved(bench.Setting(CPU, 3), lambda: order.append("o"), lambda: order.append("p"), 0)
    assert "".join(order) == "oppoop" and len(ours) == len(peer) == 3


def test_figures_of_other_groups_stay_in_the_file(tmp_path: Path) -> None:
    bench, measure = load("bench"), load("bench_measure")
    figure, path = measure.Figure("a", (1.0,), (2.0,), 1.0), tmp_path / "figures.json"
    bench.kept(path, {"step": [figure]}, {"torch": "x"}, 1)
    every = bench.kept(path, {"limit": [figure]}, {"torch": "x"}, 1)
    assert every == {"step": [figure], "limit": [figure]}


def test_the_products_of_a_step_are_its_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `limit` takes as the floor is what the planner counts, the last context's unread queries aside."""
    from torch.utils.flop_counter import FlopCounterMode

    step, models = load("bench_step"), load("bench_models")
    for name, value in (("DEPTH", 2), ("SAMPLES", 2), ("SIDE", 8), ("WORDS", 5)):
        monkeypatch.setattr(step, name, value)
    setting = load("bench_measure").Setting(CPU, 1)
    both = models.pair(2, CPU, qk_norm=True)
    given = models.work(2, 8, 5, both.ours, CPU)
    run = step.passes(setting, "fp32", lambda: given.ours(both.ours), both.ours, None)
    floor, _ = step.products(setting, "fp32", both.ours, run)
    with FlopCounterMode(display=False) as counter:
        floor()
    from mmflow.planning.flops import Load, step_flops

    flops = step_flops(both.ours, [Load(2, 1, 16, 5)])
    # Bare attention takes six products, FlashAttention's count is seven.
    assert counter.get_total_flops() == pytest.approx(flops.products + flops.attention * 6 / 7, rel=0.02)


@pytest.mark.slow
def test_every_group_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = load("bench_measure").Setting(CPU, 1)
    step = load("bench_step")
    for name, value in (("DEPTH", 1), ("SAMPLES", 1), ("SIDE", 4), ("WORDS", 3)):
        monkeypatch.setattr(step, name, value)
    assert len(step.step(setting)) == 6 and len(step.limit(setting)) == 2
    mixed = load("bench_mixed")
    monkeypatch.setattr(mixed, "DEPTH", 1)
    monkeypatch.setattr(mixed, "SAMPLES", 6)
    assert len(mixed.mixed(setting)) == 4
    sample = load("bench_sample")
    assert len(sample.sample(setting, {1: 1}, steps=3)) == 1
    quality = load("bench_quality")
    for name, value in (("STEPS", 10), ("PICTURES", 40), ("JUDGED", 2), ("BATCH", 2), ("MOST", 1)):
        monkeypatch.setattr(quality, name, value)
    assert len(quality.quality(setting)) == 1
    scale = load("bench_scale")
    for name, value in (("TOKENS", (256, 1024)), ("SAMPLES", (1, 2)), ("DEPTHS", (2, 3))):
        monkeypatch.setattr(scale, name, value)
    assert len(scale.growth(setting)) >= 5
