"""Votes as pairs that a model, or a proxy, can learn from."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmflow.people.preferred import write_preferred
from mmflow.people.session import Settings
from mmflow.people.votes import Vote
from tests.people.studies import frames, simulated, study


def test_pairs_say_what_most_raters_preferred(tmp_path: Path) -> None:
    session = study(tmp_path, settings=Settings(questions=("prompt", "motion"), repeats=0.0))
    sure = {"prompt": [99.0, 0.0], "motion": [0.0, 99.0]}
    votes = simulated(session, sure, raters=3, ties=0.0)
    assert write_preferred(session, votes, tmp_path / "out") == (4, 4)
    rows = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert [(r["question"], r["medium"], r["votes_for"], r["votes_against"]) for r in rows] == [
        ("prompt", "picture", 3, 0),
        ("prompt", "picture", 3, 0),
        ("prompt", "clip", 3, 0),
        ("motion", "clip", 3, 0),
    ]
    assert [r["chosen_model"] for r in rows] == ["model-0"] * 3 + ["model-1"]
    with Image.open(tmp_path / "out" / rows[0]["chosen"]) as better:
        assert np.array_equal(np.asarray(better), frames(0, 1)[0])
    assert all((tmp_path / "out" / r[key]).is_file() for r in rows for key in ("chosen", "rejected"))
    table = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert [row["caption"] for row in table] == [item.prompt for item in session.items[:2]]
    assert [(row["label_0"], row["label_1"], row["has_label"]) for row in table] == [(1.0, 0.0, True)] * 2
    with Image.open(io.BytesIO(table[0]["jpg_1"])) as worse:
        assert np.array_equal(np.asarray(worse), frames(1, 1)[0])
    with pytest.raises(ValueError, match="is there already"):
        write_preferred(session, votes, tmp_path / "out")


def test_a_pair_that_nobody_won_is_no_pair_but_stays_labelled_a_half(tmp_path: Path) -> None:
    session = study(tmp_path, settings=Settings(questions=("prompt",), repeats=0.0))
    pair = session.pairs[0].id
    votes = [
        Vote(r, r, pair, "prompt", 0, "a", answer, 1.0, "")
        for r, answer in (("x", "left"), ("y", "right"), ("z", "tie"))
    ]
    assert write_preferred(session, votes, tmp_path / "out") == (0, 1)
    assert (tmp_path / "out" / "pairs.jsonl").read_text() == ""
    (row,) = pq.read_table(tmp_path / "out" / "pairs.parquet").to_pylist()
    assert (row["label_0"], row["label_1"], row["has_label"]) == (0.5, 0.5, False)
