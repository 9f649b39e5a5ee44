"""Few steps against many: paths with known lengths, drops by hand, and a run through the command."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mmflow.__main__ import main
from mmflow.evaluation import page as page_of_results
from mmflow.evaluation.command import run
from mmflow.evaluation.efficiency import Asked, relative_drop
from mmflow.evaluation.trace import Traced
from mmflow.flow.solver import DpmSolver2M, Euler, Heun, Midpoint
from mmflow.metrics.geneval import TASKS
from mmflow.metrics.prompt_set import PromptSet
from mmflow.metrics.protocol import Protocol
from mmflow.metrics.store import Identity, Store
from mmflow.train.store_fill import shapes_prompts
from tests.test_cli import TINY

Said = pytest.CaptureFixture[str]


def grid(steps: int, samples: int) -> torch.Tensor:
    return torch.linspace(1, 0, steps + 1).expand(samples, -1)


@pytest.mark.parametrize("solver", [Euler(), Heun(), Midpoint(), DpmSolver2M()])
def test_a_constant_velocity_is_a_straight_way(solver) -> None:
    """v = eps - x0: the way is |eps - x0| long and 1.000 straight, for bags of any shapes."""
    torch.manual_seed(0)
    eps = (torch.randn(3, 2, 1, 4, 4), torch.randn(2, 2, 2, 4, 4))
    v = tuple(torch.randn_like(x) for x in eps)
    traced = Traced(solver)
    end = traced(lambda z, t: v, eps, grid(7, 5))
    lengths = torch.cat([x.flatten(1).norm(dim=1) for x in v])
    assert torch.allclose(traced.lengths[0], lengths, rtol=1e-5)
    assert traced.length() == pytest.approx(float(lengths.mean()), rel=1e-5)
    assert traced.straightness() == pytest.approx(1.0, abs=1e-5)
    assert all(torch.allclose(a, b - c, atol=1e-5) for a, b, c in zip(end, eps, v, strict=True))
    assert traced.evaluations(7) == solver.evaluations(7)


@pytest.mark.parametrize("solver", [Euler(), Heun()])
def test_a_quarter_of_a_circle_is_longer_than_its_chord(solver) -> None:
    def turning(z, t):
        (x,) = z
        quarter = math.pi / 2
        return (quarter * torch.stack([-x[:, 1], x[:, 0]], 1),)

    traced = Traced(solver)
    traced(turning, (torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1),), grid(400, 1))
    assert traced.length() == pytest.approx(math.pi / 2, rel=5e-3)
    assert traced.straightness() == pytest.approx(math.pi / 2 / math.sqrt(2), rel=5e-3)


def test_a_watched_solver_s_numbers_are_the_solver_s() -> None:
    torch.manual_seed(0)
    z = (torch.randn(2, 1, 1, 3, 3),)
    field = lambda z, t: (torch.sin(z[0]) * (1 + t.view(-1, 1, 1, 1, 1)),)  # noqa: E731
    assert torch.equal(Traced(Heun())(field, z, grid(5, 2))[0], Heun()(field, z, grid(5, 2))[0])


def test_drops_by_hand_and_with_intervals_that_pair() -> None:
    many, few = np.array([0.4, 0.2, 0.6, 0.8]), np.array([0.2, 0.1, 0.3, 0.4])
    found = relative_drop(few, many, ["a", "a", "b", "c"])
    assert found == {key: pytest.approx(50) for key in ("value", "low", "high")}  # half of each: no prompt is in doubt
    assert relative_drop(many, many, list("abcd"))["value"] == 0
    assert relative_drop(few, np.zeros(4), list("abcd"))["value"] is None
    for steps in ((50,), (10, 5), (5, 5), (0, 5)):
        with pytest.raises(ValueError, match="rising numbers"):
            Asked(steps)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("efficiency") / "tiny"
    main(["fit", "--config", TINY, "--trainer.default_root_dir", str(folder), "--trainer.max_steps", "6"])
    return folder


def test_a_run_through_the_command(trained: Path, capsys: Said, tmp_path: Path) -> None:
    words = ["efficiency", str(trained), "--steps", "1", "3", "--prompts", "1", "--json", str(tmp_path / "rows.json")]
    assert run(words) == 0
    assert "Relative drop of GenEval in % against 3 steps" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["depth"] == 1 and row["n"] == 6 and set(row["steps"]) == {"1", "3"}
    assert (
        row["steps"]["1"]["evaluations"] == 1 and row["steps"]["1"]["change"] >= 0 and row["steps"]["3"]["seconds"] > 0
    )
    for way in row["path"].values():
        assert way["length"] > 0 and way["straightness"] >= 1 - 1e-6
    before = (trained / "efficiency.json").stat().st_mtime_ns
    assert run(words) == 0 and (trained / "efficiency.json").stat().st_mtime_ns == before  # not measured again
    assert run(["efficiency", str(tmp_path)]) == 1
    assert run(["efficiency", str(trained), "--clip", "./none"]) == 1


def test_the_page_of_results(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that was tested; `test` itself is tested elsewhere."""
    monkeypatch.setattr(page_of_results, "EFFICIENCY", Asked((1, 3), prompts=1))
    asked: list[tuple[int | None, int | None]] = []

    def test(run: Path, prompts: int | None, held_out: int | None) -> None:
        from mmflow.cli import build

        asked.append((prompts, held_out))
        data = build(run / "config.yaml")[1]
        images = 4  # the configuration's
        questions: PromptSet = shapes_prompts(Protocol(prompts or 1, images, held_out or 0), data)
        tags = Counter((a.metadata.get("held_out"), a.metadata["tag"]) for a in questions.asked)
        interval = {"value": 0.25, "low": 0.125, "high": 0.5, "chance": 0.1}
        scores = {}
        for task in TASKS:
            apart = {split: {**interval, "n": n} for (split, tag), n in tags.items() if split and tag == task}
            scores[f"geneval/{task}"] = {**interval, "n": tags[None, task], "held_out": apart}
        scores["geneval/overall"] = scores["motion/accuracy"] = {**interval, "n": 4}
        proxies = {
            "scores": {"clip_score/tiny": {"value": 0.5, "low": None, "high": None, "n": 4}},
            "absent": {"hps": "not there"},
        }
        (run / "results.json").write_text(json.dumps({"step": 6, "scores": scores, "proxies": proxies}))
        Store.create(
            run / "store",
            Identity({"step": 6, "weights": "ema"}, {"name": "shapes", "digest": questions.digest()}, {}),
            questions,
        )

    monkeypatch.setattr(page_of_results, "test", test)
    out = tmp_path / "docs" / "results.md"
    words = ["results", str(trained), "--out", str(out)]
    assert run([*words, "--prompts", "1", "--held-out", "1"]) == 0
    text = out.read_text()
    for part in ("## GenEval", "0.25 (0.12 to 0.50)", "What training never showed", "comp_pair",
                  "## Sampling efficiency",
                  "clip_score/tiny", "Left out: hps: not there", "## Clips"):  # fmt: skip
        assert part in text, part
    assert run(words) == 0 and run([*words, "--prompts", "1"]) == 0 and asked == [(1, 1)]  # tested once
    quick = json.loads((trained / "results.json").read_text())
    quick["scores"]["geneval/colors"]["n"] = 20  # a round of training, of other pictures than the store's
    (trained / "results.json").write_text(json.dumps(quick))
    assert run(words) == 0 and asked == [(1, 1), (None, None)]
    assert run([*words, "--prompts", "2"]) == 0 and asked[2:] == [(2, None)]  # more than were
    assert run([*words, "--held-out", "1"]) == 0 and asked[3:] == [(None, 1)]
    assert run(["results", str(tmp_path)]) == 1
