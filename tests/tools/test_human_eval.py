"""tools/human_eval.py: make, serve and score, as they are called."""

import json
import socket
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from mmflow.people.session import Session
from mmflow.people.votes import VoteFile
from tests.people.studies import fill_predictions, fill_store, simulated
from tests.tools.load import load


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load("human_eval")


@pytest.fixture
def said(tool: ModuleType, capsys: pytest.CaptureFixture[str]):
    def say(*arguments: object, fails: bool = False) -> str:
        tool.console = Console(width=200)
        assert (tool.main([str(a) for a in arguments]) != 0) == fails
        out = capsys.readouterr()
        return out.err if fails else out.out

    return say


def test_from_stores_to_pairs(said, tmp_path: Path) -> None:
    a, b = fill_store(tmp_path / "first"), fill_predictions(tmp_path / "second", 1)
    text = said("make", tmp_path / "s", a, f"other={b}", "--repeats", "0.34")
    assert "model  first 5 ema" in text and "model  other" in text
    assert "2 pictures of each model; asked of them: prompt 2, aesthetics 2, typography 1" in text
    assert "1 clips of each model; asked of them: prompt 1, aesthetics 1, motion 1" in text and "3 pairs" in text
    assert "has no votes" in said("score", tmp_path / "s", fails=True)
    session = Session.open(tmp_path / "s")
    strengths = {name: [9.0, 0.0] for name in ("prompt", "aesthetics", "typography", "motion")}
    votes = VoteFile(session)
    for vote in simulated(session, strengths, raters=2, ties=0.0):
        votes.append(vote)
    text = said(
        "score", tmp_path / "s", "--pairs", tmp_path / "pairs", "--json", tmp_path / "s.json", "--anchor", "other"
    )
    assert "100.0%" in text and "motion/clips" in text and "other = 1000" in text and "rater-1" in text
    assert "pairs  8 of 8 that were voted on have a winner" in text and "no alpha: agreement cannot be told" in text
    plain = json.loads((tmp_path / "s.json").read_text())
    assert plain["anchor"] == "other" and plain["scores"][0]["elo"]["first 5 ema"]["value"] > 1100
    text = said("score", tmp_path / "s", "--without", "rater-0")
    assert "rater-0" not in text and "two raters" in text
    assert "nobody did not vote" in said("score", tmp_path / "s", "--without", "nobody", fails=True)


def test_what_goes_wrong_is_one_message(said, tmp_path: Path) -> None:
    store = fill_store(tmp_path / "first")
    said("make", tmp_path / "s", store, fill_store(tmp_path / "second", 1))
    assert "is there already" in said("make", tmp_path / "s", store, store, fails=True)
    assert "two folders or more" in said("make", tmp_path / "t", store, fails=True)
    other = fill_store(tmp_path / "other", prompts=["a cube"])
    assert "say --common" in said("make", tmp_path / "t", store, other, fails=True)
    assert "no session" in said("serve", tmp_path / "t", fails=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "is in use: --port N" in said("serve", tmp_path / "s", "--port", taken.getsockname()[1], fails=True)
    (tmp_path / "s" / "votes.jsonl").write_text('{"pair": "x"}\n')
    assert "votes.jsonl, line 1" in said("score", tmp_path / "s", fails=True)


def test_help_says_what_it_is_for(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["make", "--help"], ["serve", "--help"], ["score", "--help"]):
        with pytest.raises(SystemExit) as end:
            tool.main(words)
        assert end.value.code == 0
    text = capsys.readouterr().out
    assert "win rates, Elo, agreement" in text and "0.0.0.0" in text and "sides swapped" in text
