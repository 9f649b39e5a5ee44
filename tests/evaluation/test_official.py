"""Stores exported and official results read, through the command."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mmflow.evaluation.command import parser, run
from mmflow.evaluation.official import export, read_official
from mmflow.metrics.detector import ShapesDetector
from mmflow.metrics.geneval_scores import geneval_of_store
from mmflow.metrics.scoring import Share
from mmflow.shapes.world import World
from tests.metrics.stores import store_of
from tests.tools.load import load

WORLD = World(size=32, shapes=("circle", "square", "triangle", "cross"), colors=("red", "green", "blue", "yellow"))
Said = pytest.CaptureFixture[str]


def test_geneval_there_and_back_again(tmp_path: Path, capsys: Said) -> None:
    prompts = [(p["prompt"], p) for p in WORLD.prompts("colors", "val_iid", 2)]
    store = store_of(tmp_path / "s", prompts, images=2, side=32)
    for place in (0, 1, 2):
        store.write(place, WORLD.illustrate(store.asked[place].metadata, 0, place).frames)
    geneval_of_store(store, ShapesDetector(WORLD), Share())
    out = tmp_path / "out"
    assert run(["export", str(store.folder), str(out), "--as", "geneval"]) == 0
    results = out / "results-geneval_shapes.jsonl"
    assert run(["read", "geneval", str(results), "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["geneval/colors"]["value"] == 0.75 and scores["geneval/prompts"]["value"] == 1.0
    assert "geneval/colors" in capsys.readouterr().out
    assert run(["export", str(store.folder), str(out), "--as", "geneval"]) == 1
    assert "holds pictures already" in capsys.readouterr().err


def test_hpd_and_compbench_and_vbench(tmp_path: Path) -> None:
    hpd = store_of(
        tmp_path / "h", [("a girl", {"style": "anime"}), ("a cat", {"style": "photo"}), ("b", {"style": "photo"})]
    )
    assert export(hpd, "hpd", tmp_path / "hpd") == [f"3 pictures: {tmp_path / 'hpd'}"]
    assert sorted(str(p.relative_to(tmp_path / "hpd")) for p in (tmp_path / "hpd").rglob("*.jpg")) == [
        "anime/00000.jpg", "photo/00000.jpg", "photo/00001.jpg"
    ]  # fmt: skip
    assert Image.open(tmp_path / "hpd" / "anime" / "00000.jpg").format == "JPEG"
    with pytest.raises(ValueError, match="no picture of a style"):
        export(store_of(tmp_path / "n", [("a", {})]), "hpd", tmp_path / "no")
    (tmp_path / "answers.json").write_text(json.dumps([{"question_id": i, "answer": str(i % 2)} for i in range(20)]))
    found = read_official("compbench", [f"color={tmp_path / 'answers.json'}"])
    assert found["compbench/color"]["value"] == 0.5 and found["compbench/color"]["n"] == 20
    with pytest.raises(ValueError, match="expected CATEGORY=vqa_result"):
        read_official("compbench", [str(tmp_path / "answers.json")])
    clips = store_of(tmp_path / "c", [("a cat", {})], frames=2)
    export(clips, "vbench", tmp_path / "clips")
    assert (tmp_path / "clips" / "a cat-0.mp4").stat().st_size > 0
    (tmp_path / "v.json").write_text(json.dumps({"color": [0.25, []]}))
    assert read_official("vbench", [str(tmp_path / "v.json")])["vbench/color"]["value"] == 0.25


def test_the_tool_knows_these_verbs(tmp_path: Path, capsys: Said) -> None:
    tool = load("score")
    (tmp_path / "v.json").write_text(json.dumps({"scene": [0.5, []]}))
    assert tool.main(["read", "vbench", str(tmp_path / "v.json")]) == 0
    assert "vbench/scene" in capsys.readouterr().out
    assert tool.main(["read", "vbench", str(tmp_path / "none.json")]) == 1
    assert "none.json: no results of VBench" in capsys.readouterr().err
    assert set(tool.VERBS) == set(parser()._subparsers._group_actions[0].choices)
