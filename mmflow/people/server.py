"""The page for raters and what it asks: which task is next, the two samples by id, and votes.

    GET  /                              the page
    GET  /api/task?rater=R[&place=K]    the next task that R has not answered, or the K-th of R's list
    POST /api/votes                     {id, rater, task, answer, seconds}: kept once, on the disk before the reply
    GET  /media/ID                      a sample

Nothing that leaves names a model, a folder or a file: samples have random ids, and headers say no more than they must.
"""

import errno
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mmflow.people.questions import QUESTIONS
from mmflow.people.session import Session, Task
from mmflow.people.votes import NAME, VoteFile, make_vote

LONGEST = 4096
"""Bytes of a vote."""
LOOPBACK = ("127.0.0.1", "localhost")
TYPES = {".png": "image/png", ".mp4": "video/mp4"}
POLICY = (
    "default-src 'none'; img-src 'self' data:; media-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Room:
    """What the server knows: a session, its votes, and every rater's list.

    Args:
        session: to serve.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.votes = session, VoteFile(session)
        self.votes.latest()  # so that a file of other votes is told before anyone is asked
        self.pairs = {pair.id: pair for pair in session.pairs}
        self.media = {
            item.media[m]: session.file(i, m)
            for i, item in enumerate(session.items)
            for m in range(len(session.models))
        }
        self.tasks = lru_cache(maxsize=256)(session.tasks)

    def task(self, rater: str, place: int | None = None) -> dict[str, Any]:
        """What a rater sees at a place of the list, by default the first that is not answered.

        Raises:
            ValueError: if the name or the place is none.
        """
        if not NAME.fullmatch(rater):
            raise ValueError("a name is 1 to 40 letters, digits, dots, dashes and underscores")
        tasks, latest = self.tasks(rater), self.votes.latest()
        votes = [latest.get((rater, each.pair, each.question, each.repetition)) for each in tasks]
        done = sum(vote is not None for vote in votes)
        if place is None:
            place = next((i for i, vote in enumerate(votes) if vote is None), None)
        said: dict[str, Any] = {"done": done, "of": len(tasks), "place": place, "task": None}
        if place is None:
            return said
        if not 0 <= place < len(tasks):
            raise ValueError(f"places are 0 to {len(tasks) - 1}, got {place}")
        vote = votes[place]
        return {
            **said,
            "task": {**self._shown(tasks[place]), "answer": None if vote is None else vote.answer},
            "soon": [media for each in tasks[place + 1 : place + 8] for media in self._sides(each)],
        }

    def _sides(self, task: Task) -> tuple[str, str]:
        pair = self.pairs[task.pair]
        media = self.session.items[pair.item].media
        return (media[pair.a], media[pair.b]) if task.left == "a" else (media[pair.b], media[pair.a])

    def _shown(self, task: Task) -> dict[str, Any]:
        item, question = self.session.items[self.pairs[task.pair].item], QUESTIONS[task.question]
        left, right = self._sides(task)
        return {
            "id": task.id,
            "prompt": item.prompt,
            "medium": item.medium,
            "title": question.title,
            "question": question.text[item.medium],
            "left": left,
            "right": right,
        }

    def vote(self, said: Mapping[str, Any]) -> bool:
        """Keeps a vote as the page sends it; False if it was kept before.

        Raises:
            ValueError: if it is no answer to a task of this rater.
        """
        missing = [name for name in ("id", "rater", "task", "answer", "seconds") if name not in said]
        if missing:
            raise ValueError(f"a vote has id, rater, task, answer and seconds: {', '.join(missing)} is missing")
        rater, name = said["rater"], said["task"]
        if not (isinstance(rater, str) and NAME.fullmatch(rater) and isinstance(name, str)):
            raise ValueError("a vote names its rater and its task")
        task = next((each for each in self.tasks(rater) if each.id == name), None)
        if task is None:
            raise ValueError(f"{name!r} is no task of this rater in this session")
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        of_page = {"id": said["id"], "rater": rater, "answer": said["answer"], "seconds": said["seconds"]}
        vote = make_vote({**of_page, **asdict(task), "time": time})
        return self.votes.append(vote)


class Server(ThreadingHTTPServer):
    """Serves one room; one thread per connection."""

    daemon_threads = True

    def __init__(self, room: Room, host: str, port: int) -> None:
        self.room, self.local = room, host in LOOPBACK
        self.page = (files("mmflow.people") / "page.html").read_bytes()
        super().__init__((host, port), Handler)

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}/"


def open_server(session: Session, host: str = LOOPBACK[0], port: int = 8765) -> Server:
    """A server that is bound and not yet serving.

    Args:
        session: to serve.
        host: address to bind; by default nobody but this machine reaches it.
        port: 0 takes any that is free.

    Raises:
        ValueError: if the port is in use or the address is none of this machine's, or votes do not belong.
    """
    try:
        return Server(Room(session), host, port)
    except OverflowError as error:
        raise ValueError(f"a port is a number from 0 to 65535, got {port}") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} of {host} is in use: --port N takes another, --port 0 any") from error
        raise ValueError(f"{host}:{port} cannot be served: {error}") from error


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def version_string(self) -> str:
        return "mmflow"

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: votes are the record."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self._trusted():
            return
        if url.path == "/":
            self._send(200, self.server.page, "text/html; charset=utf-8", {"Content-Security-Policy": POLICY})
        elif url.path == "/api/task":
            asked = parse_qs(url.query)
            try:
                place = int(asked["place"][0]) if "place" in asked else None
                self._say(200, self.server.room.task(asked.get("rater", [""])[0], place))
            except ValueError as error:
                self._say(400, {"error": str(error)})
        elif (path := self.server.room.media.get(url.path.removeprefix("/media/"))) and url.path.startswith("/media/"):
            self._media(path)
        else:
            self._say(404, {"error": "there is nothing here"})

    def do_POST(self) -> None:
        if not self._trusted():
            return
        length = self.headers.get("Content-Length", "")
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip()
        if self.path != "/api/votes" or kind != "application/json" or not length.isdigit() or int(length) > LONGEST:
            self.close_connection = True  # what was sent is not read
            return self._say(400, {"error": f"votes are JSON of at most {LONGEST} bytes, posted to /api/votes"})
        try:
            said = json.loads(self.rfile.read(int(length)))
            if not isinstance(said, dict):
                raise ValueError("a vote is a JSON object")
            kept = self.server.room.vote(said)
        except ValueError as error:
            return self._say(400, {"error": str(error)})
        except OSError:
            return self._say(507, {"error": "the vote could not be written; it is sent again in a moment"})
        return self._say(200, {"kept": kept})

    def _trusted(self) -> bool:
        """On loopback, only pages of this machine's own names may ask: a foreign name that points here may not."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if self.server.local and host not in LOOPBACK:
            self.close_connection = True
            self._say(403, {"error": "this is served to this machine only"})
            return False
        return True

    def _media(self, path: Path) -> None:
        """A sample, or the part of it that is asked for: players of clips ask for parts."""
        try:
            content = path.read_bytes()
        except OSError:
            return self._say(404, {"error": "this sample is gone"})
        headers = {"Accept-Ranges": "bytes", "Cache-Control": "private, max-age=86400"}
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if part is None or not (part[1] or part[2]):
            return self._send(200, content, TYPES[path.suffix], headers)
        first = int(part[1]) if part[1] else max(0, len(content) - int(part[2]))
        last = min(int(part[2]) if part[1] and part[2] else len(content) - 1, len(content) - 1)
        if first > last:
            return self._send(416, b"", TYPES[path.suffix], {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return self._send(206, content[first : last + 1], TYPES[path.suffix], headers)

    def _say(self, code: int, said: Mapping[str, Any]) -> None:
        content = json.dumps(said, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self._send(code, content, "application/json; charset=utf-8", {"Cache-Control": "no-store"})

    def _send(self, code: int, content: bytes, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(code)
        safe = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **safe, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
