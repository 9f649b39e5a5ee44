"""Agreement against the values of Krippendorff's own examples (Computing Krippendorff's Alpha-Reliability, 2011)."""

import numpy as np
import pytest

from mmflow.metrics.krippendorff import krippendorff_alpha

FOUR_OBSERVERS = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def table(text: str) -> np.ndarray:
    """(units, raters) of a published table of raters by units."""
    letters = {letter: float(i) for i, letter in enumerate("abcde")}
    rows = [
        [np.nan if x == "." else letters[x] if x in letters else float(x) for x in line.split()]
        for line in text.strip().splitlines()
    ]
    return np.array(rows).T


@pytest.mark.parametrize(
    ("answers", "level", "published"),
    [
        ("0 1 0 0 0 0 0 0 1 0\n1 1 1 0 0 1 0 0 0 0", "nominal", 0.095),  # its section A
        ("a a b b d c c c e d d a\nb a b b b c c c e d d d", "nominal", 0.692),  # its section B
        (FOUR_OBSERVERS, "nominal", 0.743),  # its section C
        (FOUR_OBSERVERS, "ordinal", 0.815),  # its section D
        (FOUR_OBSERVERS, "interval", 0.849),
    ],
)
def test_published_examples(answers: str, level: str, published: float) -> None:
    found = krippendorff_alpha(table(answers), level)  # type: ignore[arg-type]
    assert found.value == pytest.approx(published, abs=5e-4)
    assert found.low < found.value < found.high <= 1


def test_agreement_is_one_and_chance_is_nought() -> None:
    rng = np.random.default_rng(0)
    same = np.repeat(rng.integers(0, 3, (50, 1)), 4, 1).astype(float)
    assert krippendorff_alpha(same).value == 1
    random = krippendorff_alpha(rng.integers(0, 3, (2000, 3)).astype(float), "ordinal")
    assert random.low < 0 < random.high and abs(random.value) < 0.05 and random.n == 6000


def test_an_answer_that_nobody_else_gave_one_to_counts_for_nothing() -> None:
    answers = table(FOUR_OBSERVERS)
    more = np.concatenate([answers, [[7, np.nan, np.nan, np.nan]]])
    assert krippendorff_alpha(more) == krippendorff_alpha(answers) and krippendorff_alpha(more).n == 40


def test_what_has_no_agreement_is_told() -> None:
    with pytest.raises(ValueError, match="two raters"):
        krippendorff_alpha(np.array([[1, np.nan], [np.nan, 2]]))
    with pytest.raises(ValueError, match="all answers are the same"):
        krippendorff_alpha(np.ones((3, 2)))
