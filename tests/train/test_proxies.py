"""`test` with proxies: made once, scored, restartable, told in results.json; absent weights are one line each."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mmflow.__main__ import main
from mmflow.cli import build
from mmflow.metrics.random_features import RandomFeatures
from mmflow.metrics.store import Store
from mmflow.shapes.prompts import GENEVAL_TASKS
from tests.metrics.published import tiny_clip
from tests.test_cli import TINY
from tests.tools.load import load

Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, and what `test` is to do with it."""
    folder = tmp_path_factory.mktemp("runs")
    main(["fit", "--config", TINY, "--trainer.default_root_dir", str(folder / "run"), "--trainer.max_steps", "1"])
    clip = str(tiny_clip(folder / "weights" / "tiny-clip", size=32))
    metrics = "mmflow.metrics"
    scorers = [
        {"class_path": f"{metrics}.clip_score.ClipScore", "init_args": {"path": clip}},
        {"class_path": f"{metrics}.preference.PickScore", "init_args": {"path": clip, "processor": None}},
        {"class_path": f"{metrics}.preference.Hps", "init_args": {"path": "./nowhere/HPS_v2.1_compressed.pt"}},
    ]
    features = {"class_path": f"{metrics}.clip_score.ClipFeatures", "init_args": {"path": clip}}
    distances = [{"features": f"{metrics}.random_features.RandomFeatures"}, {"features": features}]
    # The shapes world's own scores, which are tested elsewhere, are left out: their chance takes long to find.
    world = build(Path(TINY))[1].world
    tasks = (*GENEVAL_TASKS, "motion")
    asked = [prompt for task in tasks for prompt in world.prompts(task, "val_iid", 3)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in asked))
    content = {
        "proxies": {"scorers": scorers, "distances": distances, "prompts": str(folder / "asked.jsonl")},
        "scores": {"full": {"prompts": 0, "held_out_prompts": 0}},
    }
    (folder / "proxies.yaml").write_text(yaml.safe_dump(content))
    return folder


def use(folder: Path, *more: str) -> dict:
    config = ["--config", str(folder / "run" / "config.yaml"), "--config", str(folder / "proxies.yaml")]
    main(["test", *config, "--ckpt_path", str(folder / "run"), *more])
    return json.loads((folder / "run" / "results.json").read_text())["proxies"]


@pytest.fixture(scope="module")
def results(run: Path) -> dict:
    return use(run)


def the_store(run: Path, results: dict) -> Store:
    return Store.open(run / "run" / results["samples"]["folder"])


@pytest.mark.filterwarnings("ignore:the Frechet distance of")
def test_results_hold_scores_and_distances_of_pictures_and_clips(run: Path, results: dict) -> None:
    scores = results["scores"]
    for name in ("clip_score/tiny-clip", "pick_score", "frechet/tiny-clip", f"kernel/{RandomFeatures().name}"):
        assert {"value", "low", "high", "n"} <= set(scores[name]), name
        assert f"{name}/clips" in scores and scores[name]["n"] == 18 and scores[f"{name}/clips"]["n"] == 3
    assert results["absent"] == {"hps_v2.1": "./nowhere/HPS_v2.1_compressed.pt is not there"}
    samples = results["samples"]
    assert samples["checkpoint"]["weights"] == "ema" and len(samples["checkpoint"]["digest"]) == 16
    assert samples["sampling"]["num_steps"] == 2 and (run / "run" / samples["folder"]).is_dir()
    the_store(run, results).require_whole()


@pytest.mark.filterwarnings("ignore:the Frechet distance of")
def test_what_is_there_is_not_made_again_and_what_is_lost_is(run: Path, results: dict, capfd: Said) -> None:
    store = the_store(run, results)
    lost, kept = store.path(2), store.path(3)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (lost, kept)}
    lost.unlink()
    again = use(run)
    said = capfd.readouterr().out
    assert again == results
    assert "hps_v2.1: left out, ./nowhere/HPS_v2.1_compressed.pt is not there" in said
    assert "clip_score/tiny-clip" in said and "Proxies, of" in said
    assert lost.read_bytes() == before[lost][0]  # the same picture, wherever its batch was
    assert kept.stat().st_mtime_ns == before[kept][1]


def test_other_settings_are_another_store(run: Path, results: dict) -> None:
    other = use(run, "--model.sampling.guidance_scale", "1", "--proxies.distances", "[]")
    assert other["samples"]["folder"] != results["samples"]["folder"]
    assert other["samples"]["sampling"]["guidance_scale"] == 1
    assert {**other["samples"]["checkpoint"]} == results["samples"]["checkpoint"]


@pytest.mark.slow
def test_the_shapes_world_s_own_scores_and_proxies_look_at_the_same_samples(run: Path, results: dict) -> None:
    clip = ["--proxies.prompts", "null", "--scores.full.prompts", "2", "--scores.full.images", "1"]
    found = use(run, *clip, "--scores.full.held_out_prompts", "1", "--proxies.distances", "[]")
    assert {"pick_score", "pick_score/clips"} <= set(found["scores"])
    own = json.loads((run / "run" / "results.json").read_text())["scores"]
    assert {"geneval/overall", "motion/accuracy"} <= set(own)
    assert found["scores"]["pick_score"]["n"] == 12 and found["samples"]["prompts"]["name"] == "shapes"
    assert found["samples"]["prompts"]["n"] > 14  # what is held out of training is made and judged, but by no proxy


def test_a_prompt_file_is_asked_instead(run: Path, results: dict, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("a red circle\na blue square\n")
    path = str(tmp_path / "own.txt")
    own = use(run, "--proxies.prompts", path, "--proxies.images", "2", "--proxies.distances", "[]")
    assert own["scores"]["pick_score"]["n"] == 4 and own["samples"]["prompts"]["name"] == "own"
    with pytest.raises(SystemExit):
        use(run, "--proxies.prompts", str(tmp_path / "none.txt"))


@pytest.mark.filterwarnings("ignore:the Frechet distance of")
def test_stores_are_judged_together_unless_they_do_not_compare(run: Path, results: dict, tmp_path: Path) -> None:
    tool = load("score")
    config = ["--config", str(run / "run" / "config.yaml"), "--config", str(run / "proxies.yaml")]
    one = run / "run" / results["samples"]["folder"]
    copy = tmp_path / "other" / "store" / one.name
    shutil.copytree(one, copy)
    assert tool.main([str(one), str(copy), *config, "--json", str(tmp_path / "table.json")]) == 0
    first, second = json.loads((tmp_path / "table.json").read_text())
    assert first["scores"] == second["scores"]
    assert first["scores"]["pick_score"] == results["scores"]["pick_score"]
    identity = json.loads((copy / "identity.json").read_text())
    identity["sampling"]["num_steps"] = 99
    (copy / "identity.json").write_text(json.dumps(identity))
    assert tool.main([str(one), str(copy), *config]) == 1  # another sampler setting
    assert tool.main([str(tmp_path), *config]) == 1  # no store
