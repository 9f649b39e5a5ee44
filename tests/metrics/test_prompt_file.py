"""Prompt files of every kind that people have, and what is wrong with some."""

import json
from pathlib import Path

import pytest

from mmflow.metrics.prompt_file import read_prompt_file
from mmflow.metrics.prompt_set import prompt_set

LONG = "é" * 150  # 300 bytes


def test_quotes_slashes_and_long_prompts_come_through(tmp_path: Path) -> None:
    odd = ['a "sign', "a/b", LONG, "a fantasy landscape", "A fantasy landscape", "one\u2028line", "'s", "a, b"]
    (tmp_path / "p.txt").write_text("\n".join(odd), encoding="utf-8")  # the last line lacks a newline
    (tmp_path / "p.tsv").write_text("Prompt\tCategory\n" + "".join(f"{x}\tSigns\r\n" for x in odd), encoding="utf-8")
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": x}) + "\n" for x in odd), encoding="utf-8")
    (tmp_path / "p.json").write_text(json.dumps(odd), encoding="utf-8-sig")
    for name in ("p.txt", "p.tsv", "p.jsonl", "p.json"):
        assert [prompt for prompt, _ in read_prompt_file(tmp_path / name)] == odd, name
    assert read_prompt_file(tmp_path / "p.tsv")[0][1] == {"Category": "Signs"}


def test_csv_has_the_quotes_of_spreadsheets(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('id,Prompt\n1,"a ""red"" cup, full"\n2,a dog\n')
    assert read_prompt_file(tmp_path / "p.csv") == [('a "red" cup, full', {"id": "1"}), ("a dog", {"id": "2"})]


def test_compbench_s_files_say_their_category(tmp_path: Path) -> None:
    (tmp_path / "color_val.txt").write_text("a red cup and a blue dog\n")
    (tmp_path / "3d_spatial_val.txt").write_text("a cup in front of a dog")
    (tmp_path / "complex_val.txt").write_text("a cup near a red dog\na man runs\n")
    (tmp_path / "complex_val_spatial.txt").write_text("a cup near a red dog\n")
    (tmp_path / "color_train.txt").write_text("never read\n")
    found = read_prompt_file(tmp_path)
    assert [(p, m) for p, m in found] == [
        ("a red cup and a blue dog", {"category": "color"}),
        ("a cup in front of a dog", {"category": "3d_spatial"}),
        ("a cup near a red dog", {"category": "complex", "kind": "spatial"}),
        ("a man runs", {"category": "complex"}),
    ]


def test_hpd_and_coco(tmp_path: Path) -> None:
    for style in ("anime", "photo"):
        (tmp_path / f"{style}.json").write_text(json.dumps([f"{style} one", f"{style} two"]))
    assert [m["style"] for _, m in read_prompt_file(tmp_path)] == ["anime", "anime", "photo", "photo"]
    captions = [
        {"image_id": 7, "caption": "a cat "},
        {"image_id": 7, "caption": "cat"},
        {"image_id": 3, "caption": "b"},
    ]
    (tmp_path / "captions_val2014.json").write_text(json.dumps({"images": [], "annotations": captions}))
    assert read_prompt_file(tmp_path / "captions_val2014.json") == [("a cat", {"image_id": 7}), ("b", {"image_id": 3})]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.tsv", "Prompt\tNote\na\tb\tc\n", "row 2: 3 cells, its header has 2"),
        ("a.tsv", "Note\tPrompt\nonly\n", "row 2"),
        ("a.csv", "", "no column `prompt`"),
        ("a.json", '{"a": 1}', "expected a list"),
        ("a.json", '{"annotations": [{"caption": "x"}]}', "image_id"),
        ("a.xlsx", "x", ".csv is wanted"),
    ],
)
def test_what_is_wrong_is_told(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as said:
        read_prompt_file(tmp_path / name)
    assert words in str(said.value) and name in str(said.value)
    with pytest.raises(ValueError, match="the folder holds none of color_val"):
        (tmp_path / "empty").mkdir()
        read_prompt_file(tmp_path / "empty")


def test_a_prompt_may_bring_its_seed_and_negative_prompt() -> None:
    asked = prompt_set(
        "own", [("a", {"seed": 7, "negative_prompt": "blurry"}), ("b", {})], lambda _: (1, 8, 8), 2
    ).asked
    assert [(a.request.seed, a.request.negative_prompt) for a in asked] == [
        (7, "blurry"), (8, "blurry"), (0, None), (1, None)
    ]  # fmt: skip
