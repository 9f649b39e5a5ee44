"""No vote is lost and none counts twice: sent again, corrected, cut short, from two raters and two servers at once."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mmflow.people.session import Session
from mmflow.people.votes import Vote, VoteFile, read_votes
from tests.people.studies import study


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return study(tmp_path, prompts=["a red circle", "a blue square"])


def vote_on(
    session: Session, rater: str = "anna", number: int = 0, answer: str = "left", name: str | None = None
) -> Vote:
    task = session.tasks(rater)[number]
    name = name or f"{rater}-{number}"
    return Vote(
        name, rater, task.pair, task.question, task.repetition, task.left, answer, 1.5, "2026-01-01T00:00:00+00:00"
    )


def lines(session: Session) -> list[str]:
    return session.votes.read_text().splitlines()


def test_a_vote_is_on_the_disk_and_counts_once(session: Session) -> None:
    votes = VoteFile(session)
    assert votes.append(vote_on(session)) and not votes.append(vote_on(session))
    assert [json.loads(line) for line in lines(session)] == [asdict(vote_on(session))]
    assert not VoteFile(session).append(vote_on(session)), "another process knows it too"
    assert read_votes(session) == [vote_on(session)]


def test_a_later_vote_corrects_and_both_stay(session: Session) -> None:
    votes = VoteFile(session)
    votes.append(vote_on(session))
    votes.append(vote_on(session, answer="tie", name="second"))
    assert len(lines(session)) == 2 and [vote.answer for vote in read_votes(session)] == ["tie"]
    assert not votes.append(vote_on(session)), "the first, sent late once more, does not come back"
    assert [vote.answer for vote in read_votes(session)] == ["tie"]


def test_what_is_preferred_does_not_depend_on_the_side(session: Session) -> None:
    vote = replace(vote_on(session), left="b")
    assert [replace(vote, answer=x).preferred for x in ("left", "right", "tie")] == ["b", "a", "tie"]


def test_two_raters_at_two_servers_at_once_lose_nothing(session: Session) -> None:
    files = [VoteFile(session), VoteFile(session)]
    tasks = [(files[n % 2], vote_on(session, f"r{n}", k)) for n in range(24) for k in range(4)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda each: each[0].append(each[1]), tasks))
        assert not any(pool.map(lambda each: each[0].append(each[1]), tasks))
    assert len(lines(session)) == len(read_votes(session)) == 96
    assert files[0].latest() == files[1].latest()


def test_a_line_that_a_crash_cut_short_is_dropped_and_the_next_is_whole(session: Session) -> None:
    VoteFile(session).append(vote_on(session))
    with open(session.votes, "a") as file:
        file.write('{"id": "torn", "rater": "an')
    assert len(read_votes(session)) == 1
    VoteFile(session).append(vote_on(session, number=1))
    assert len(lines(session)) == len(read_votes(session)) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pair": "elsewhere"}, "no pair 'elsewhere' in this session"),
        ({"question": "motion"}, "question 'motion' is not asked of pair"),
        ({"rater": "../x y"}, "a rater's name is"),
        ({"id": ""}, "a vote's id is"),
        ({"answer": "both"}, "an answer is one of left, right, tie"),
        ({"repetition": 2}, "an answer is one of"),
        ({"seconds": -1}, "seconds are a number"),
        ({"seconds": float("nan")}, "seconds are a number"),
    ],
)
def test_votes_that_do_not_belong_are_refused_and_told_by_line(session: Session, change: dict, said: str) -> None:
    good = vote_on(session)
    with pytest.raises(ValueError, match=said):
        VoteFile(session).append(replace(good, **change))
    assert not session.votes.exists()
    session.votes.write_text(json.dumps(asdict(good)) + "\n" + json.dumps({**asdict(good), "id": "2", **change}) + "\n")
    with pytest.raises(ValueError, match=rf"votes.jsonl, line 2: (.|\n)*{said}"):
        read_votes(session)


def test_lines_that_are_no_votes_are_told(session: Session) -> None:
    for line in ("hello", "[1]", '{"id": "1"}', json.dumps({**asdict(vote_on(session)), "more": 1})):
        session.votes.write_text(line + "\n")
        with pytest.raises(ValueError, match=r"votes.jsonl, line 1"):
            read_votes(session)


def test_raters_may_be_left_out(session: Session) -> None:
    with pytest.raises(ValueError, match="has no votes"):
        read_votes(session)
    votes = VoteFile(session)
    for rater in ("anna", "ben"):
        votes.append(vote_on(session, rater))
    assert [vote.rater for vote in read_votes(session, without=["ben"])] == ["anna"]
    with pytest.raises(ValueError, match="cleo did not vote; anna, ben did"):
        read_votes(session, without=["cleo"])
