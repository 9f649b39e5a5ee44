"""The certificate: a right run gets it, and each planted defect is seen and named."""

import copy
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmflow import draws
from mmflow.batch import Sample
from mmflow.certified_run import next_edge, place_before_edge, run
from mmflow.certify import Certification, Launch, Layout, Scenario, Start, compare, read_trace, report, scenarios
from mmflow.data.plan import Filling, Item
from mmflow.data.source import AbstractSource
from mmflow.data.train_order import TrainOrder
from mmflow.train.ema import Ema
from mmflow.train.module import FlowModule
from tests.data.media import make_shards

ROOT = Path(__file__).parent.parent
ONE = Layout(1, 0)


def step(**after: Any) -> dict[str, Any]:
    sample = {"key": "s/0/1", "visit": 0, "caption": "a", "t": "0x1p-1", "frames": "f", "noise": "n"}
    numbers = {"loss": 1.0, "lr": [0.1], "weights": "w", "ema": "e", "weights_norm": 3.0, "ema_norm": 2.0}
    return {"samples": {"s/0/1 visit 0": sample}, "after": numbers | after}


def test_equal_steps_have_no_differences() -> None:
    assert compare(1, step(), step(), exact=True) == compare(1, step(), step(), exact=False) == []


@pytest.mark.parametrize("what", ["caption", "t", "frames", "noise"])
def test_every_draw_is_compared(what: str) -> None:
    other = copy.deepcopy(step())
    other["samples"]["s/0/1 visit 0"][what] = "another"
    for exact in (True, False):
        assert compare(4, step(), other, exact) == [f"step 4: s/0/1 visit 0 differs in {what}"]


def test_samples_that_are_missing_or_others_are_named() -> None:
    other = copy.deepcopy(step())
    other["samples"]["s/0/2 visit 0"] = other["samples"].pop("s/0/1 visit 0")
    (said,) = compare(2, step(), other, True)
    assert said == "step 2: 1 samples are missing and 1 are others (s/0/1 visit 0, s/0/2 visit 0)"


@pytest.mark.parametrize(("what", "near", "far"), [("loss", 1 + 1e-6, 1.01), ("weights_norm", 3 - 1e-6, 2.9)])
def test_numbers_have_a_tolerance_between_layouts_only(what: str, near: float, far: float) -> None:
    assert len(compare(1, step(), step(**{what: near}), exact=True)) == 1
    assert compare(1, step(), step(**{what: near}), exact=False) == []
    assert len(compare(1, step(), step(**{what: far}), exact=False)) == 1


def test_learning_rates_have_none_and_hashes_are_of_one_layout() -> None:
    assert len(compare(1, step(), step(lr=[0.1000001]), exact=False)) == 1
    assert compare(1, step(), step(weights="x", ema="y"), exact=False) == []
    assert len(compare(1, step(), step(weights="x", ema="y"), exact=True)) == 2
    unfinished = {**step(), "after": None}
    assert compare(1, step(), unfinished, exact=False) == ["step 1: was not ended"]


def test_traces_of_all_ranks_are_one_and_a_sample_twice_is_an_error(tmp_path: Path) -> None:
    def line(key: str) -> str:
        return json.dumps({"step": 1, "samples": [{"key": key, "visit": 0}]}) + "\n"

    (tmp_path / "rank-0.jsonl").write_text(line("a") + json.dumps({"step": 1, "after": {"loss": 1.0}}) + "\n")
    (tmp_path / "rank-1.jsonl").write_text(line("b"))
    assert set(read_trace(tmp_path)[1]["samples"]) == {"a visit 0", "b visit 0"}
    (tmp_path / "rank-1.jsonl").write_text(line("a"))
    with pytest.raises(ValueError, match="step 1 has a visit 0 twice"):
        read_trace(tmp_path)
    with pytest.raises(ValueError, match="left no trace"):
        read_trace(tmp_path / "none")


def test_every_scenario_is_killed_twice_after_odd_steps_and_ends() -> None:
    layouts = [Layout.of(text) for text in ("1x0", "1x2", "2x0", "2x1")]
    for steps in (8, 10, 17):
        made = scenarios(layouts, steps, has_passes=True)
        assert [each.name for each in made] == ["inside a pass", "at the edge of a pass", "in other layouts"]
        for scenario in made:
            *stops, (last, _) = scenario.starts
            kills = [kill for kill, _ in stops]
            assert last is None and len(kills) >= 2 and min(kills) >= 3 and kills == sorted(set(kills))
            assert all(kill % 2 and 1 <= kill < steps for kill in kills)
        assert {str(layout) for _, layout in made[2].starts} == {"1x0", "1x2", "2x0", "2x1"}
    assert [each.name for each in scenarios([ONE], 8, has_passes=False)] == ["inside a pass"]
    with pytest.raises(ValueError, match="at least 8"):
        Certification([], Path("x"), lambda start: 0, steps=7)
    with pytest.raises(ValueError, match="at least 12 for 6 layouts"):
        scenarios([ONE] * 6, 8, has_passes=True)
    for text in ("0x1", "2", "ax1"):
        with pytest.raises(ValueError, match="RANKSxWORKERS"):
            Layout.of(text)


def forked(defect: Callable[[], None] | None = None) -> Launch:
    """Starts as forks of this process, which has all imported already; `defect` is planted in those that go on."""

    def launch(start: Start) -> int:
        pid = os.fork()
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            os.setsid()
            Path(start.trace).parent.mkdir(parents=True, exist_ok=True)
            log = os.open(Path(start.trace).with_suffix(".log"), os.O_CREAT | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            torch.set_num_threads(1)  # the threads of this process did not come along
            if defect is not None and "--ckpt_path" in start.command_line():
                defect()
            run(start)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)

    return launch


def skip_a_batch() -> None:
    real = TrainOrder.take_up

    def take_up(self: TrainOrder, state: dict[str, Any]) -> list[str]:
        changed = real(self, state)
        self.position += 4
        return changed

    TrainOrder.take_up = take_up  # type: ignore[method-assign]


def replay_a_batch() -> None:
    real = TrainOrder.take_up

    def take_up(self: TrainOrder, state: dict[str, Any]) -> list[str]:
        changed = real(self, state)
        self.position -= 4
        return changed

    TrainOrder.take_up = take_up  # type: ignore[method-assign]


def reseed(purpose: str) -> Callable[[], None]:
    def plant() -> None:
        real = draws.generator
        draws.generator = lambda seed, what, key, visit: real(seed + (what == purpose), what, key, visit)

    return plant


def forget_the_average() -> None:
    Ema.on_load_checkpoint = lambda *_: None  # type: ignore[method-assign]


def restart_the_schedule() -> None:
    FlowModule.progress = lambda self: 0.0  # type: ignore[method-assign]


DEFECTS: dict[str, tuple[Callable[[], None], str]] = {
    "skipped": (skip_a_batch, "samples are missing"),
    "replayed": (replay_a_batch, "samples are missing"),
    "noise": (reseed("eps"), "differs in noise"),
    "crop": (reseed("crop"), "differs in frames"),
    "caption": (reseed("caption_dropout"), "differs in"),
    "t": (reseed("u"), "differs in t"),
    "average": (forget_the_average, "ema"),
    "rate": (restart_the_schedule, "lr"),
}


@pytest.fixture(scope="module")
def certification(tmp_path_factory: pytest.TempPathFactory) -> Certification:
    """Of a small run on 21 pictures and 3 clips in steps of 4: six make a pass of the pictures."""
    folder = tmp_path_factory.mktemp("certified")
    shards = make_shards(folder / "shards", pictures=[12, 9], clips=[1, 2])
    args = ["--config", str(ROOT / "tests" / "tiny.yaml"), "--data.train_shards", str(shards)]
    args += ["--data.val_shards", str(shards), "--data.resolution", "16", "--data.multiple", "8", "--data.frames", "4"]
    args += ["--data.fps", "5", "--data.batch_size", "4", "--model.lr_schedule.decay", "linear"]
    args += ["--data.caption_dropout", "0.5", "--ema.every_n_steps", "1"]
    return Certification(args, folder / "runs", forked(), steps=8)


INSIDE, EDGE = scenarios([ONE], 8, has_passes=True)


@pytest.mark.slow
def test_a_right_run_is_certified(certification: Certification) -> None:
    verdicts = [certification.run(INSIDE), certification.run(EDGE)]
    assert [verdict.differences for verdict in verdicts] == [[], []]
    assert all(verdict.steps > 8 for verdict in verdicts), "steps that were lost were done again"
    assert len(verdicts[1].passes) > 1, "a pass ended in it"
    assert report(verdicts, [], [ONE])["certified"]


@pytest.mark.slow
def test_a_run_that_accumulates_is_certified(certification: Certification, tmp_path: Path) -> None:
    """A device that holds one sample at a time: four micro-steps make a step, and kills come between steps."""
    args = [*certification.args, "--data.tokens_per_device", "83"]
    accumulating = Certification(args, tmp_path / "runs", forked(), steps=8)
    verdicts = [accumulating.run(INSIDE), accumulating.run(EDGE)]
    assert [verdict.differences for verdict in verdicts] == [[], []]
    assert len(verdicts[1].passes) > 1, "a pass ended in it"
    told = [json.loads(line) for line in next(accumulating.folder.rglob("rank-0.jsonl")).read_text().splitlines()]
    micro_steps = [line["step"] for line in told if "samples" in line]
    assert micro_steps.count(micro_steps[0]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_seen(certification: Certification, name: str) -> None:
    defect, said = DEFECTS[name]
    certification.launch = forked()
    certification._reference(False, ONE)
    certification.launch = forked(defect)
    verdict = certification.run(Scenario(f"defect {name}", False, ((3, ONE), (None, ONE))))
    certification.launch = forked()
    assert any(said in line for line in verdict.differences), verdict.differences
    assert not report([verdict], [], [ONE])["certified"]


def test_the_edge_of_a_pass_is_found() -> None:
    class Source(AbstractSource):
        def __init__(self, size: int | None) -> None:
            self.size, self.name, self.medium = size, "s", "picture"

        def locate(self, source: int, nth: int, position: int) -> Item:
            return Item(source, nth, 0, position, (str(source), nth), (1, 8, 8))

        def read(self, item: Item) -> Sample:
            raise NotImplementedError

        def caption(self, item: Item) -> str:
            raise NotImplementedError

    order = TrainOrder([Source(30), Source(None)], [3.0, 1.0], Filling(4), {"seed": 0, "world": None})
    assert next_edge(order) in (39, 40, 41)
    place = place_before_edge(order, 5)
    steps = [step for step, _ in zip(order.plan.steps(place), range(7), strict=False)]
    last = [max(item.row for item in step.items if item.source == 0) for step in steps]
    assert last[3] < 30 <= last[6]
