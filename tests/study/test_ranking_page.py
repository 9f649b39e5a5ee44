"""The page of ranks, of studies whose every number is known."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmflow.flow.formulations import TABLE_1
from mmflow.study import ranking_page
from mmflow.study.folder import score_file
from mmflow.study.plan import Setting, Study
from mmflow.study.ranking_page import CLAIMS, page
from mmflow.train.run import write_json
from tests.study.test_records import TINY, finish

NAMES = list(TABLE_1)


@pytest.fixture
def chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for what takes ten seconds to find."""
    monkeypatch.setattr(ranking_page, "chance_of", lambda study: 0.125)


def write(tmp_path: Path, place: Callable[[int], float], done: int = len(NAMES), error: float = 1e-9) -> str:
    """The page of a study in which the paper's n-th row has the place `place(n)`; the first `done` rows are there."""
    study = Study(
        base=TINY,
        out=str(tmp_path / "out"),
        axes={"model.formulation": "table1"},
        seeds=(0, 1),
        settings=(Setting(5, 2.0), Setting(50, 2.0), Setting(50, 1.0)),
    )
    for cell in study.cells():
        n = NAMES.index(cell.labels["model.formulation"])
        if n >= done:
            continue
        finish(study, cell)
        for weights in study.weights:
            for setting in study.settings:
                fewer = 0.5 if setting.num_steps == 5 else 1.0
                numbers = {"score": fewer * (1 - place(n) / 20), "kernel": place(n) / fewer, "n": 6}
                errors = {"score_error": error, "kernel_error": error}
                write_json(score_file(study.folder(cell), weights, setting), numbers | errors)
    return page({"configs/some.yaml": study}, tmp_path / "page.md", "the command")


def test_a_study_that_ranks_as_the_paper_does_bears_it_out(tmp_path: Path) -> None:
    text = write(tmp_path, float)
    assert "16 of 16 are done, 2 seeds of training" in text and "Not whole" not in text
    assert "sampled in 6 ways, 6 pictures each" in text and "100% of the pairs" in text
    assert 0.05 < float(text.split("by chance it is ")[1].split(". At")[0]) < 0.25
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| 1") or " | `" in line]
    assert [row[1].strip("`") for row in rows[:16]] == NAMES
    assert [float(row[5]) for row in rows[:16]] == [TABLE_1[name][0] for name in NAMES]
    assert rows[0][:5] == ["| 1", "`rf/lognorm(0.00,1.00)`", "1.00 (1.0 - 1.0)", "1.00", "1.00"]
    assert "16 rows are here. Their mean ranks here and there agree by Spearman's +1.00" in text
    assert text.count(" | yes |") == len(CLAIMS) and " | no |" not in text
    # v is the paper's rows 10 and 12, from 0: 1 - 11 / 20 and 11; with 5 steps half the score and twice the distance.
    assert "| v | 2 | 0.23 / 22.0000 | 0.45 / 11.0000 |" in text
    for figure in ("some_ranks.png", "some_steps.png"):
        assert f"({figure})" in text and (tmp_path / figure).stat().st_size > 10_000


def test_a_study_that_ranks_the_other_way_says_so(tmp_path: Path, chance: None) -> None:
    text = write(tmp_path, lambda n: 19.0 - n)
    assert "by chance it is 0.125. At 50 steps and guidance 2, 14 of 16 are above that." in text
    assert "Spearman's -1.00" in text and text.count(" | no |") == len(CLAIMS)


def test_what_noise_covers_is_not_told_apart(tmp_path: Path, chance: None) -> None:
    text = write(tmp_path, lambda n: n / 1000, error=5.0)
    assert text.count(" | not told apart |") == len(CLAIMS) and "| 1= |" in text and "0% of the pairs" in text


def test_rows_that_are_not_there_are_named_and_in_no_rank(tmp_path: Path, chance: None) -> None:
    text = write(tmp_path, float, done=5)
    assert "5 of 16 are done" in text and f"in no rank: {', '.join(NAMES[5:])}." in text
    assert "Spearman" not in text and "`eps/linear`" not in text  # five points are too few, and it is the sixth
    assert "5 of 5 are above that" in text
    with pytest.raises(ValueError, match="1 of 16 variants are whole"):
        write(tmp_path / "fewer", float, done=1)
