"""Signals in the loop: what a run with W&B leaves, over a stop and a continuation, and within its share of the time."""

import json
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest

from mmflow.__main__ import main
from mmflow.metrics.interval import Interval
from mmflow.metrics.signal_file import Round, folder_of, read_rounds
from mmflow.metrics.surface_file import read_surface, surface_paths
from mmflow.train.loggers import RunWandb
from mmflow.train.preference import Preference
from mmflow.train.signal_media import prompt_table
from mmflow.train.signals import Signals
from tests.test_cli import TINY
from tests.test_cli import fit as fit_apart
from tests.wandb_file import history, media, run_records

ARGUMENTS = (
    *("--signals.every_n_steps", 2, "--signals.num_prompts", 1, "--signals.max_share", 1),
    *("--trainer.val_check_interval", 2, "--checkpoints.every_n_steps", 2, "--wandb.mode", "offline"),
    *("--trainer.max_steps", 4, "--data.val_samples", 4),
    *("--signals.scorers", "[{class_path: tests.redness.Redness}, {class_path: tests.redness.Absent}]"),
)


def fit(folder: Path, *args: object) -> None:
    command = ["fit", "--config", TINY, "--trainer.default_root_dir", folder, *ARGUMENTS, *args]
    main([str(arg) for arg in command])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped after step 3, beyond its checkpoint at step 2, and continued to step 4."""
    folder = tmp_path_factory.mktemp("signals") / "run"
    fit(folder, "--trainer.max_steps", 3, "--checkpoints.keep", -1)
    (folder / "checkpoints" / "last.ckpt").unlink()
    (folder / "checkpoints" / "step-000000003.ckpt").unlink()
    fit(folder, "--ckpt_path", folder / "checkpoints" / "step-000000002.ckpt")
    return folder


def test_everything_that_is_promised_is_in_the_offline_file_once(run: Path) -> None:
    rows = history(run)
    points = Counter((name, row["trainer/global_step"]) for row in rows for name in row if name[0] != "_")
    twice = [name for name, number in points.items() if number > 1 and name[0] != "trainer/global_step"]
    assert not twice
    names = {name for name, _ in points}
    promised = {"train/loss", "val/loss", "val/loss_low", "val_raw/loss", "val/loss_clip/t=0.5", "signals/share"}
    promised |= {f"signals/{k}/geneval/{t}" for k in ("ema", "raw") for t in ("overall", "colors", "overall/low")}
    promised |= {
        "signals/raw/redness",
        "signals/ema/redness/high",
        "signals/ema",
        "signals/raw",
        "signals/ema-clip-0006",
        "signals/prompts",
    }
    assert promised <= names
    kinds = {row[n]["_type"] for row in rows for n in row if isinstance(row[n], dict) and "_type" in row[n]}
    assert {"image-file", "video-file", "table-file"} <= kinds
    assert any("surface/picture" in name for name in names), "the chart of the surface"
    for name in ("val/loss", "signals/ema/geneval/overall", "signals/prompts"):
        assert [row["trainer/global_step"] for row in rows if name in row] == [
            pytest.approx(step, abs=1) for step in (2, 4)
        ]
    assert sorted(row["trainer/global_step"] for row in rows if "train/loss" in row) == [0, 1, 2, 3]
    endings = {Path(name).suffix for name in media(run)}
    assert {".png", ".mp4", ".json"} <= endings


def test_a_stopped_and_continued_run_is_one_run(run: Path) -> None:
    starts = run_records(run)
    assert len(starts) >= 2 and {start.run_id for start in starts} == {(run / "wandb_id").read_text().strip()}
    assert {start.display_name for start in starts} == {"run"}
    config = {item.key: json.loads(item.value_json) for item in starts[0].config.update}
    assert config["data"]["val_samples"] == 4 and config["signals"]["every_n_steps"] == 2


def test_the_run_directory_holds_the_same(run: Path) -> None:
    rounds = read_rounds(run)
    assert list(rounds) == list(surface_paths(run)) == [2, 4]
    for step, each in rounds.items():
        assert set(each.scores) == {"ema", "raw"} and 0 < each.share <= 1 and each.seconds > 0
        assert {"samples", "shapes", "redness"} == set(each.identity)
        names = {path.name for path in folder_of(run, step).iterdir()}
        assert {"ema.png", "raw.png", "ema-prompt-0000.png", "raw-clip-0006.mp4", "scores.json"} <= names
    assert rounds[2].identity == rounds[4].identity
    grid = prompt_table(run, rounds[4])
    assert grid.columns == ("prompt", "step 2", "step 4") and len(grid.rows) == 7
    assert all(cell.is_file() for row in grid.rows for cell in row[1:])


def test_a_run_that_is_to_stop_leaves_a_round_to_its_continuation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = ("--wandb.mode", "off", "--data.val_samples", 0)
    with monkeypatch.context() as patch:
        patch.setattr("mmflow.train.signals.is_to_stop", lambda trainer: True)
        fit(tmp_path / "run", "--trainer.max_steps", 2, *quiet)
    assert "the round at step 2 is left: the run is to stop" in capsys.readouterr().out
    assert not read_rounds(tmp_path / "run")
    fit(tmp_path / "run", "--trainer.max_steps", 3, *quiet, "--ckpt_path", "last")
    assert list(read_rounds(tmp_path / "run")) == [2], "what continues makes it"


def signals(spent: float, longest: float, trained: float) -> Signals:
    made = Signals(every_n_steps=1)
    made.load_state_dict({"trained": trained, "spent": spent, "longest": longest, "left_out": 0.0})
    return made


def test_rounds_keep_within_their_share_of_the_time() -> None:
    assert signals(0, 0, 1)._has_time(), "the first one tells how long they take"
    assert not signals(5, 5, 100)._has_time()
    assert signals(5, 5, 196)._has_time()
    assert signals(5, 5, 100).share == pytest.approx(0.05, rel=0.1)
    with pytest.raises(ValueError, match="max_share"):
        Signals(max_share=0)
    with pytest.raises(ValueError, match="numbers >= 0"):
        Signals(num_prompts=-1)


def test_a_round_comes_back_from_its_file(tmp_path: Path) -> None:
    scores = {"ema": {"a/b": Interval(0.5, 0.4, 0.6, 9)}}
    whole = Round(3, scores, ("a/b",), {"samples": {"n": 9}}, 1.5, 0.01, {"0": "a circle"})
    folder_of(tmp_path, 3).mkdir(parents=True)
    whole.write(folder_of(tmp_path, 3))
    assert read_rounds(tmp_path) == {3: whole}
    (folder_of(tmp_path, 3) / "scores.json").write_text("{}")
    with pytest.raises(ValueError, match="not what a round of signals leaves"):
        read_rounds(tmp_path)


def test_what_was_logged_is_not_logged_again_and_a_broken_tracker_stops_nothing(tmp_path: Path) -> None:
    class Broken:
        rows: ClassVar[list] = []

        def log(self, row: dict) -> None:
            if row["trainer/global_step"] > 3:
                raise RuntimeError("no network")
            self.rows.append(row)

    for _ in range(2):
        wandb = RunWandb(tmp_path, "offline", "p")
        wandb._run = Broken()
        for step in (1, 2, 3):
            wandb.log_metrics({"a": step, "epoch": 0}, step)
        wandb.log_metrics({"a": 0, "b": 1}, 3)
    assert [(row.get("a"), row.get("b")) for row in Broken.rows] == [(1, None), (2, None), (3, None), (None, 1)]
    wandb.log_metrics({"a": 4}, 4)
    wandb.log_metrics({"a": 5}, 5)
    assert json.loads((tmp_path / "wandb_steps.json").read_text())["now"] == {"a": 3, "b": 3}


def test_without_network_an_online_run_goes_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    begun = []

    def init(**settings: object) -> object:
        if settings["mode"] == "online":
            raise wandb.errors.CommError("cannot reach api.wandb.ai")
        begun.append(settings["id"])
        given: dict[str, object] = {
            "define_metric": lambda *a, **k: None,
            "log": lambda *a: None,
            "dir": str(tmp_path),
            "id": settings["id"],
        }
        return type("Run", (), given)()

    monkeypatch.setattr(wandb, "init", init)
    logger = RunWandb(tmp_path, "online", "p")
    logger.log_metrics({"a": 1.0}, 1)
    assert logger.experiment is not None and begun == [(tmp_path / "wandb_id").read_text().strip()]
    assert "cannot be reached (cannot reach api.wandb.ai): this run logs offline" in capsys.readouterr().out


def test_preference_is_silent_before_there_are_enough_checkpoints(run: Path) -> None:
    Preference.update(type("T", (), {"default_root_dir": str(run), "loggers": [], "global_step": 4})())
    assert not (run / "preference.json").exists()


@pytest.mark.slow
def test_two_processes_share_the_work_and_leave_what_one_does(tmp_path: Path) -> None:
    arguments = (*ARGUMENTS, "--trainer.max_steps", 2)
    fit_apart(tmp_path / "one", *arguments)
    fit_apart(tmp_path / "two", *arguments, "--trainer.devices", 2)
    one, two = read_rounds(tmp_path / "one")[2], read_rounds(tmp_path / "two")[2]
    assert one.identity == two.identity and one.prompts == two.prompts
    for kind, scores in one.scores.items():
        assert scores.keys() == two.scores[kind].keys()
        assert two.scores[kind]["redness"].value == pytest.approx(scores["redness"].value, abs=1e-4)
    losses = [read_surface(tmp_path / name) for name in ("one", "two")]
    assert losses[0].names == losses[1].names
    for kind in ("ema", "raw"):
        assert losses[1].losses(kind) == pytest.approx(losses[0].losses(kind), rel=1e-4)


@pytest.mark.slow
def test_a_run_of_nine_checkpoints_says_what_predicts_what(tmp_path: Path) -> None:
    fit(tmp_path / "run", "--trainer.max_steps", 9, "--trainer.val_check_interval", 1, "--signals.every_n_steps", 1)
    found = json.loads((tmp_path / "run" / "preference.json").read_text())
    assert found["checkpoints"] == {"run": list(range(1, 10))} and found["weights"] == "ema"
    assert {"redness"} <= {row["score"] for row in found["agreement"]}
    assert {"all", "picture", "clip", "clip t=0.5"} <= {row["stratum"] for row in found["agreement"]}
    for row in found["agreement"]:
        assert -1 <= row["low"] <= row["agreement"] <= row["high"] <= 1 and row["n"] == 9
    assert found["recommendations"] or found["refused"]
    rows = history(tmp_path / "run")
    tables = [row["preference/agreement"]["_type"] for row in rows if "preference/agreement" in row]
    assert tables == ["table-file"] * 2, "at eight checkpoints and at nine"
    assert any(name.startswith("preference/redness") for row in rows for name in row)
