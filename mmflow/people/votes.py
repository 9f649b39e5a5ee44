"""Answers on disk, one JSON object per line, that outlive reloads, crashes and two raters, or two servers, at once.

A line is written under a lock and is on the disk before the rater is told so. A vote has an id that the page gives it:
the same one sent again, after an answer that was lost on its way, is one vote. A later vote of the same rater on the
same task corrects the earlier one, which stays in the file.
"""

import fcntl
import json
import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mmflow.people.session import Session

ANSWERS = ("left", "right", "tie")
NAME = re.compile(r"[\w.\-]{1,40}")


@dataclass(frozen=True)
class Vote:
    """One answer.

    Attributes:
        id: of this vote, random.
        rater: who.
        pair, question, repetition: of the task.
        left: which of a and b was at the left.
        answer: left, right or tie.
        seconds: from seeing both samples to the answer.
        time: of the answer, ISO 8601 in UTC.
    """

    id: str
    rater: str
    pair: str
    question: str
    repetition: int
    left: str
    answer: str
    seconds: float
    time: str

    @property
    def preferred(self) -> str:
        """a, b or tie."""
        if self.answer == "tie":
            return "tie"
        return self.left if self.answer == "left" else {"a": "b", "b": "a"}[self.left]

    @property
    def task(self) -> tuple[str, str, str, int]:
        """What a later vote on the same replaces."""
        return self.rater, self.pair, self.question, self.repetition


def make_vote(said: Mapping[str, Any]) -> Vote:
    """A vote of plain values, as files and pages have them.

    Raises:
        ValueError: if a field is missing, too many or of another type.
    """
    kinds: dict[str, tuple[type, ...]] = {"repetition": (int,), "seconds": (int, float)}
    names = [field.name for field in fields(Vote)]
    if set(said) != set(names):
        raise ValueError(f"a vote has {', '.join(names)}: got {', '.join(map(str, said)) or 'nothing'}")
    for name in names:
        if not isinstance(said[name], kinds.get(name, (str,))) or isinstance(said[name], bool):
            raise ValueError(f"a vote's {name} cannot be {said[name]!r}"[:200])
    return Vote(**{**said, "seconds": float(said["seconds"])})


def check_vote(vote: Vote, questions: dict[str, tuple[str, ...]]) -> None:
    """Refuses a vote that does not belong.

    Args:
        vote: any.
        questions: of every pair of the session.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if vote.pair not in questions:
        raise ValueError(f"there is no pair {vote.pair!r} in this session")
    if vote.question not in questions[vote.pair]:
        raise ValueError(f"question {vote.question!r} is not asked of pair {vote.pair}")
    if not NAME.fullmatch(vote.rater):
        raise ValueError("a rater's name is 1 to 40 letters, digits, dots, dashes and underscores")
    if not NAME.fullmatch(vote.id):
        raise ValueError("a vote's id is 1 to 40 letters, digits and dashes")
    if vote.answer not in ANSWERS or vote.left not in ("a", "b") or vote.repetition not in (0, 1):
        raise ValueError(f"an answer is one of {', '.join(ANSWERS)}, about sides a and b: got {vote.answer!r}")
    if not 0 <= vote.seconds < float("inf"):
        raise ValueError(f"seconds are a number from 0, got {vote.seconds!r}")


def questions_by_pair(session: Session) -> dict[str, tuple[str, ...]]:
    """What is asked of every pair."""
    return {pair.id: session.items[pair.item].questions for pair in session.pairs}


class VoteFile:
    """The votes of a session, as they are on the disk now.

    Args:
        session: whose.
    """

    def __init__(self, session: Session) -> None:
        self.path = session.votes
        self._questions = questions_by_pair(session)
        self._lock = threading.Lock()
        self._read, self._lines = 0, 0
        self._ids: set[str] = set()
        self._latest: dict[tuple[str, str, str, int], Vote] = {}

    def append(self, vote: Vote) -> bool:
        """Keeps a vote; False if it was kept before. On return it is on the disk.

        Raises:
            ValueError: if it does not belong to the session.
        """
        check_vote(vote, self._questions)
        with self._lock, open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = self._catch_up(file.fileno())
            if vote.id in self._ids:
                return False
            os.ftruncate(file.fileno(), end)  # a line that a crash cut short was never confirmed to anyone
            line = json.dumps(asdict(vote), ensure_ascii=False).encode() + b"\n"
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
            self._catch_up(file.fileno())
            return True

    def latest(self) -> dict[tuple[str, str, str, int], Vote]:
        """The votes that count, by (rater, pair, question, repetition), those of other processes too.

        Raises:
            ValueError: naming the line that is no vote of this session.
        """
        with self._lock:
            if self.path.is_file():
                with open(self.path, "rb") as file:
                    self._catch_up(file.fileno())
            return dict(self._latest)

    def _catch_up(self, file: int) -> int:
        """Reads the whole lines that are new; where they end."""
        new = os.pread(file, os.fstat(file).st_size - self._read, self._read)
        whole = new[: new.rfind(b"\n") + 1]
        for line in whole.splitlines():
            self._lines += 1
            if line.strip():
                vote = _parse(line, f"{self.path}, line {self._lines}", self._questions)
                if vote.id not in self._ids:
                    self._ids.add(vote.id)
                    self._latest[vote.task] = vote
        self._read += len(whole)
        return self._read


def _parse(line: bytes, where: str, questions: dict[str, tuple[str, ...]]) -> Vote:
    try:
        said = json.loads(line)
        if not isinstance(said, dict):
            raise ValueError("a vote is a JSON object")
        vote = make_vote(said)
        check_vote(vote, questions)
    except ValueError as error:
        raise ValueError(f"{where}: {error}. Votes of another session do not belong here") from error
    return vote


def read_votes(session: Session, without: Iterable[str] = ()) -> list[Vote]:
    """The votes that count, in the order in which they were first given.

    Args:
        session: whose.
        without: raters to leave out.

    Raises:
        ValueError: if there are none, a line is no vote of this session, or a rater to leave out never voted.
    """
    votes = list(VoteFile(session).latest().values())
    raters, left_out = {vote.rater for vote in votes}, set(without)
    if left_out - raters:
        said = ", ".join(sorted(raters)) or "nobody"
        raise ValueError(f"{', '.join(sorted(left_out - raters))} did not vote; {said} did")
    kept = [vote for vote in votes if vote.rater not in left_out]
    if not kept:
        raise ValueError(f"{session.votes} has no votes: `tools/human_eval.py serve {session.folder}` collects them")
    return kept
