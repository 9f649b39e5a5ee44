"""What votes come to, where what raters prefer is known."""

from dataclasses import replace

import numpy as np
import pytest

from mmflow.metrics.bradley_terry import ELO
from mmflow.people.scores import all_raters, all_said, wins_by_prompt
from mmflow.people.session import Settings
from mmflow.people.votes import Vote
from tests.people.studies import planned, simulated

STRENGTHS = {"prompt": [0.0, 0.5, 1.0, -0.4], "aesthetics": [0.0, 0.0, 0.0, 0.0]}


def test_strengths_of_simulated_raters_are_recovered_with_honest_intervals() -> None:
    session = planned(4, 60, Settings(repeats=0.1))
    votes = simulated(session, STRENGTHS, raters=4, ties=0.0, seed=3)
    by_name = {said.name: said for said in all_said(session, votes, "model-0")}
    for question, strengths in STRENGTHS.items():
        said = by_name[question]
        assert said.votes == 4 * 360 and said.raters == 4 and said.prompts == 60 and said.elo is not None
        for m, strength in enumerate(strengths):
            found = said.elo[f"model-{m}"]
            assert found.value == pytest.approx(1000 + ELO * strength, abs=50)
            assert found.low - 25 < 1000 + ELO * strength < found.high + 25 and found.high - found.low < 130
        for rate in said.rates:
            a, b = (int(name[-1]) for name in (rate.model, rate.baseline))
            truth = 1 / (1 + np.exp(strengths[b] - strengths[a]))
            assert (
                rate.rate.value == pytest.approx(truth, abs=0.11) and rate.rate.low < rate.rate.value < rate.rate.high
            )
            assert rate.rate.n == rate.wins + rate.ties + rate.losses == 240
    assert by_name["prompt"].alpha is not None and by_name["aesthetics"].alpha is not None
    assert by_name["aesthetics"].alpha.low < 0 < by_name["aesthetics"].alpha.high < by_name["prompt"].alpha.value


def test_ties_are_half_and_draw_rates_towards_equal() -> None:
    session = planned(2, 100)
    votes = simulated(session, {"prompt": [3.0, 0.0], "aesthetics": [0.0, 0.0]}, raters=2, ties=0.5)
    (rate,) = all_said(session, votes)[0].rates
    assert rate.ties > 70 and rate.rate.value == pytest.approx((rate.wins + 0.5 * rate.ties) / 200)


def test_where_all_prompts_say_the_same_the_interval_is_not_empty() -> None:
    session = planned(2, 12)
    always = simulated(session, {"prompt": [99.0, 0.0], "aesthetics": [0.0, 99.0]}, raters=3, ties=0.0)
    first, second = all_said(session, always)
    assert first.rates[0].rate.value == 1 and 0.7 < first.rates[0].rate.low < 0.8 and first.rates[0].rate.high == 1
    assert second.rates[0].rate.value == 0 and first.elo is not None and first.elo["model-0"].value < 1500
    assert first.alpha is None and "all answers are the same" in first.not_said[0]


def test_raters_are_told_apart() -> None:
    """One who answers by what is there, one who always takes the left, one who tosses coins."""
    session = planned(2, 200, Settings(repeats=0.5))
    sure = {"prompt": [8.0, 0.0], "aesthetics": [8.0, 0.0]}
    none = {"prompt": [0.0, 0.0], "aesthetics": [0.0, 0.0]}
    kinds = {"good": (sure, 0.0), "left": (none, 50.0), "coin": (none, 0.0)}
    votes = [
        replace(vote, rater=name, id=f"{name}{vote.id}")
        for name, (strengths, bias) in kinds.items()
        for vote in simulated(session, strengths, raters=1, ties=0.0, side_bias=bias)
    ]
    coin, good, left = all_raters(votes)
    assert (coin.name, good.name, left.name) == ("coin", "good", "left") and good.votes == 400 and good.repeats == 200
    assert good.agreed > 195 and good.left is not None and 0.4 < good.left < 0.6
    assert left.agreed == 0 and left.left == 1 and 70 < coin.agreed < 130 and good.seconds == 2


def test_repeats_do_not_count_twice_and_sides_do_not_matter() -> None:
    session = planned(2, 3, Settings(repeats=1.0))
    votes = simulated(session, {"prompt": [99.0, 0.0], "aesthetics": [99.0, 0.0]}, raters=1, ties=0.0)
    assert len(votes) == 10 and {vote.left for vote in votes} == {"a", "b"}
    wins = wins_by_prompt(session, [vote for vote in votes if vote.repetition == 0 and vote.question == "prompt"])
    assert wins.tolist() == [[[0, 1], [0, 0]]] * 3
    assert all_said(session, votes)[0].votes == 3


def test_what_cannot_be_said_is_said() -> None:
    session = planned(3, 2)
    votes = [Vote("1", "r", "0-0-1", "prompt", 0, "a", "left", 1.0, "")]
    (said,) = all_said(session, votes)
    assert said.elo is None and said.alpha is None
    assert said.not_said[0].startswith("Elo: no vote compares model-0, model-1 with model-2")
    assert said.not_said[1] == "alpha: agreement needs something that two raters answered"
    with pytest.raises(ValueError, match="the anchor is one of model-0, model-1, model-2: not x"):
        all_said(session, votes, "x")
