"""Strengths from preferences: closed forms, known strengths recovered, intervals that hold."""

import numpy as np
import pytest

from mmflow.metrics.bradley_terry import ELO, elo, log_strengths, require_connected


def test_two_models_have_the_log_odds_of_their_wins() -> None:
    wins = np.array([[0, 30.0], [10, 0]])
    a, b = log_strengths(wins, ties=0)
    assert a - b == pytest.approx(np.log(3), abs=1e-8) and a + b == pytest.approx(0)
    a, b = log_strengths(wins)
    assert a - b == pytest.approx(np.log(30.5 / 10.5), abs=1e-8), "an empirical log odds"


def test_a_tie_is_half_a_win_of_each_and_one_that_always_wins_is_not_infinite() -> None:
    assert log_strengths(np.array([[0, 5.0], [5, 0]])) == pytest.approx([0, 0])
    always = np.array([[0, 12.0], [0, 0]])
    a, b = log_strengths(always)
    assert a - b == pytest.approx(np.log(25))
    with pytest.raises(ValueError, match="never preferred"):
        log_strengths(always, ties=0)
    split = np.array([[0, 1, 9, 9], [1, 0, 9, 9], [0, 0, 0, 1], [0, 0, 1, 0]], dtype=float)
    with pytest.raises(ValueError, match="some models always win"):
        log_strengths(split, ties=0, tolerance=1e-12)


def test_what_is_expected_of_known_strengths_gives_them_back() -> None:
    """The likelihood's maximum is where expected wins are the wins, whatever pairs were compared how often."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=6)
    truth -= truth.mean()
    number = np.triu(rng.integers(0, 3, (6, 6)) * 50.0, 1) + np.diag(np.full(5, 20.0), 1)
    number += number.T
    chance = 1 / (1 + np.exp(truth[None, :] - truth[:, None]))
    assert log_strengths(number * chance, ties=0) == pytest.approx(truth, abs=1e-6)


def test_many_at_once_are_each_by_itself() -> None:
    wins = np.random.default_rng(1).integers(1, 9, (5, 4, 4)) * (1 - np.eye(4))
    together = log_strengths(wins)
    assert np.allclose(together, [log_strengths(each) for each in wins], atol=1e-7)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth, held = np.array([0.0, 0.3, 0.9]), []
    chance = 1 / (1 + np.exp(truth[None, :] - truth[:, None]))
    for seed in range(40):
        rng = np.random.default_rng(seed)
        upper = np.triu(rng.random((60, 3, 3)) < chance, 1)
        wins = upper + np.swapaxes(np.triu(~upper, 1), 1, 2)
        found = elo(wins.astype(float), anchor=0)
        assert found[0].value == found[0].low == found[0].high == 1000
        held += [x.low <= 1000 + ELO * t <= x.high for x, t in zip(found[1:], truth[1:], strict=True)]
    assert 0.87 < np.mean(held) <= 1


def test_models_that_nothing_links_are_named() -> None:
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[2, 3] = 1
    with pytest.raises(ValueError, match="no vote compares a, b with c, d"):
        require_connected(wins, "abcd")
    wins[1, 2] = 1
    require_connected(wins, "abcd")
