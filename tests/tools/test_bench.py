"""tools/bench.py: its arithmetic in closed form, and each group once on the smallest work there is."""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

TOOLS = Path(__file__).parents[2] / "tools"
CPU = torch.device("cpu")
SMALLEST = {
    "bench_step": {"DEPTH": 1, "SAMPLES": 1, "SIDE": 4, "WORDS": 3},
    "bench_mixed": {"DEPTH": 1, "SAMPLES": 6},
    "bench_sample": {"DEPTH": 1, "PICTURES": {1: 1}, "STEPS": 3},
    "bench_quality": {"STEPS": 10, "PICTURES": 40, "JUDGED": 2, "BATCH": 2, "MOST": 1},
    "bench_objective": {"DEPTH": 1, "SAMPLES": 1, "SIDE": 4, "WORDS": 3, "CALLS": 1},
    "bench_scale": {"TOKENS": (64, 256), "SAMPLES": (1, 2), "BLOCKS": (2, 3), "DEEP": 2},
}
"""File -> its sizes, at which a group takes a second."""


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
    told = bench.Figure("d", (9.0,), (1.0,), 1.1, "told")
    assert told.reached and told.ratio == 9
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


def test_files_of_different_times_make_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the groups; a group that two files have is as the later one has it."""
    bench, measure = load("bench"), load("bench_measure")
    first, second = (measure.Figure(name, (1.0,), (2.0,), 1.0) for name in ("first", "second"))
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    bench.kept(a, {"limit": [first], "data": [first]}, {}, 1)
    bench.kept(b, {"limit": [second], "step": [second]}, {}, 1)
    assert list(bench.together([a, b]).items()) == [("step", [second]), ("limit", [second]), ("data", [first])]
    picture, table = tmp_path / "all.png", tmp_path / "all.md"
    wanted = ["--plot-from", str(a), str(b), "--plot", str(picture), "--markdown", str(table)]
    monkeypatch.setattr(sys, "argv", ["bench.py", *wanted])
    assert bench.main() == 0
    assert picture.stat().st_size > 0 and table.read_text().count("###") == 3


@pytest.mark.parametrize("said", ["", "[]", '{"step": {}}', '{"pace": {"figures": []}}'], ids=str)
def test_what_holds_no_figures_is_refused(said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(said)
    with pytest.raises(ValueError, match=r"a\.json holds no figures|no group pace"):
        load("bench").together([path])


def test_a_run_is_timed_until_its_mark_and_ended_there() -> None:
    """Whatever it would do after it; its children's processor time counts, that of one that has ended as well."""
    startup, setting = load("bench_startup"), load("bench_measure").Setting
    work = "import time\nwhile time.process_time() < 0.3: pass"
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.run([sys.executable, '-c', {work!r}])\n"
        f"running = subprocess.Popen([sys.executable, '-c', {work!r} + '\\ntime.sleep(60)'])\n"
        f"time.sleep(1)\n{work}\nprint('a bar', {startup.MARK!r}, flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", code]
    for clock, least, most in (("cpu", 0.5, 10.0), ("wall", 1.0, 50.0)):
        assert least <= startup.until_marked(setting(CPU, 1, clock), command, dict(os.environ)) < most


def test_a_run_that_ends_before_its_first_step_is_an_error() -> None:
    startup, setting = load("bench_startup"), load("bench_measure").Setting(CPU, 1)
    with pytest.raises(RuntimeError, match="before its first step\nno such thing"):
        startup.until_marked(setting, [sys.executable, "-c", "print('no such thing')"], dict(os.environ))


def test_the_mark_is_the_first_optimizer_steps(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """Not that of a micro-step before it; and a run that nobody ends is no measurement."""
    mark = load("bench_mark")
    monkeypatch.setattr(mark, "WAITS", 0.0)
    callback, trainer = mark.FirstStep(), type("Trainer", (), {"global_step": 0})
    callback.on_train_batch_end(trainer, None, None, None, 0)
    assert not capsys.readouterr().out
    trainer.global_step = 1
    with pytest.raises(RuntimeError, match="nobody ended the run"):
        callback.on_train_batch_end(trainer, None, None, None, 0)
    assert capsys.readouterr().out == f"{mark.MARK}\n"


def test_the_objective_is_measured_without_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward to the output: as many passes as are asked for, and not one product of weights."""
    from torch.utils.flop_counter import FlopCounterMode

    bench, models = load("bench_objective"), load("bench_models")
    model = bench.MMDiT(1, video_patch_size=None)
    given, counted = models.work(1, 4, 3, model, CPU), []
    monkeypatch.setattr(bench, "CALLS", 3)
    asked = bench.FlowObjective()
    monkeypatch.setattr(type(asked.density), "observe", lambda self, t, error: counted.append(error.requires_grad))
    with FlopCounterMode(display=False) as counter:
        bench.alone(load("bench_measure").Setting(CPU, 1), "fp32", asked, given)()
    assert counted == [True] * 3 and counter.get_total_flops() == 0


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


def test_bf16_is_measured_where_there_are_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = load("bench")
    for has, found in ((True, ["fp32", "bf16"]), (False, ["fp32"])):
        monkeypatch.setattr(bench, "has_bf16_instructions", lambda has=has: has)
        assert bench.usual_precisions("cpu") == found and bench.usual_precisions("cuda") == ["fp32", "bf16"]


def test_a_profile_is_in_the_precisions_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides of a step in each; what autocast converts shows in bf16 alone."""
    step, measure = load("bench_step"), load("bench_measure")
    for name, value in SMALLEST["bench_step"].items():
        monkeypatch.setattr(step, name, value)
    said = step.where_time_goes(measure.Setting(CPU, 1, precisions=("fp32", "bf16")), rows=1000)
    tables = {table.split(":")[0]: table for table in said.split("\n\n")}
    assert list(tables) == ["ours, fp32", "diffusers, fp32", "ours, bf16", "diffusers, bf16"]
    assert {name for name, table in tables.items() if "aten::_to_copy" in table} >= {"ours, bf16", "diffusers, bf16"}
    assert all("aten::addmm" in table for table in tables.values())


def test_growth_takes_attention_out_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight still gets a gradient, and depth is blocks of one width."""
    scale = load("bench_scale")
    model = scale.build(2, CPU, blocks=3, attention=scale.WithoutAttention())
    assert [block.context.last for block in model.blocks] == [False, False, True]
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))
    twice, once = (scale.Step(model, n, 16) for n in (2, 1))
    assert twice.products == 2 * once.products
    once.passes(CPU)()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.slow
def test_every_group_measures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the smallest work; the quickstart's start-up, which knows no smaller, is left to the tool itself.

    Nothing is compiled: the checks of types at run time, which tests have on, cannot be.
    """
    measure = load("bench_measure")
    setting = measure.Setting(CPU, 1, precisions=("fp32",))
    for file, sizes in SMALLEST.items():
        for name, value in sizes.items():
            monkeypatch.setattr(load(file), name, value)
    counts = {"step": 9, "limit": 1, "mixed": 2, "sample": 1, "quality": 1, "objective": 4, "growth": 11}
    with torch.compiler.set_stance("force_eager"):
        found = {group: load("bench").measured(group, setting) for group in counts}
    assert {group: len(figures) for group, figures in found.items()} == counts
    measure.plot(found, tmp_path / "figures.png")
    assert (tmp_path / "figures.png").stat().st_size > 0
