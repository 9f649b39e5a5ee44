"""What the server says and keeps, and that nothing it says tells whose a sample is."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mmflow.people.server import Server, open_server
from mmflow.people.session import Session
from mmflow.people.votes import read_votes
from tests.people.studies import study


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return study(tmp_path_factory.mktemp("secret-place"))


@pytest.fixture
def session(made: Session) -> Iterator[Session]:
    made.votes.unlink(missing_ok=True)
    yield made


@pytest.fixture
def server(session: Session) -> Iterator[Server]:
    server = open_server(session, port=0)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(server: Server, path: str, sent: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    body = sent if isinstance(sent, bytes | None) else json.dumps(sent).encode()
    kind = {"Content-Type": "application/json"} if body is not None else {}
    connection.request("GET" if body is None else "POST", path, body, {**kind, **headers})
    reply = connection.getresponse()
    found = reply.status, dict(reply.getheaders()), reply.read()
    connection.close()
    return found


def task(server: Server, rater: str = "anna", place: int | None = None) -> dict[str, Any]:
    code, _, said = ask(server, f"/api/task?rater={rater}" + ("" if place is None else f"&place={place}"))
    assert code == 200
    return json.loads(said)


def vote(server: Server, said: dict[str, Any], name: str, answer: str = "left", rater: str = "anna") -> tuple[int, Any]:
    sent = {"id": name, "rater": rater, "task": said["task"]["id"], "answer": answer, "seconds": 1.0}
    code, _, reply = ask(server, "/api/votes", sent)
    return code, json.loads(reply)


def test_a_rater_goes_through_the_list_and_it_ends(server: Server, session: Session) -> None:
    tasks, seen = session.tasks("anna"), []
    for n, expected in enumerate(tasks):
        said = task(server)
        assert (said["done"], said["of"], said["place"]) == (n, len(tasks), n) and said["task"]["answer"] is None
        assert said["task"]["id"] == expected.id
        seen.append(said["task"]["left"])
        assert vote(server, said, f"v{n}") == (200, {"kept": True})
        assert vote(server, said, f"v{n}") == (200, {"kept": False}), "sent again it is the same vote"
    assert task(server)["task"] is None and task(server)["done"] == len(tasks)
    assert task(server, "ben")["done"] == 0, "another rater is asked everything"
    votes = read_votes(session)
    assert [v.task for v in votes] == [("anna", t.pair, t.question, t.repetition) for t in tasks]
    pairs = {pair.id: pair for pair in session.pairs}
    for one, media in zip(votes, seen, strict=True):
        pair = pairs[one.pair]
        assert session.items[pair.item].media[pair.a if one.left == "a" else pair.b] == media


def test_one_may_go_back_and_correct(server: Server, session: Session) -> None:
    vote(server, task(server), "v0", "left")
    again = task(server, place=0)
    assert again["task"]["answer"] == "left" and again["place"] == 0
    vote(server, again, "v1", "tie")
    assert [v.answer for v in read_votes(session)] == ["tie"] and task(server)["place"] == 1


def test_a_server_that_starts_again_goes_on(server: Server, session: Session) -> None:
    vote(server, task(server), "v0")
    other = open_server(session, port=0)
    assert other.room.task("anna")["place"] == 1 and not other.room.votes.append(read_votes(session)[0])
    other.server_close()


def test_nothing_that_leaves_names_a_model_a_file_or_a_folder(server: Server, session: Session) -> None:
    words = [b"secret", b"model-", b"00000", b"Python", b"BaseHTTP", str(session.folder).encode()]
    shown = [task(server, place=n)["task"] for n in range(len(session.tasks("anna")))]
    media = [f"/media/{each[side]}" for each in shown for side in ("left", "right")]
    for path in ("/", "/api/task?rater=anna", "/nothing", "/session.json", "/media/../session.json", "/media/", *media):
        code, headers, content = ask(server, path)
        assert code == (404 if path in ("/nothing", "/session.json", "/media/../session.json", "/media/") else 200)
        text = json.dumps(headers).encode() + content
        assert not [word for word in words if word in text], path
        assert headers["Server"] == "mmflow" and headers["X-Content-Type-Options"] == "nosniff"
    assert ask(server, "/")[1]["Content-Security-Policy"].startswith("default-src 'none'")


def test_samples_come_whole_and_in_parts(server: Server, session: Session) -> None:
    content = session.file(2, 0).read_bytes()
    path = f"/media/{session.items[2].media[0]}"
    assert ask(server, path)[2] == content and ask(server, path)[1]["Content-Type"] == "video/mp4"
    for part, expected in {
        "0-99": content[:100],
        "100-": content[100:],
        "-7": content[-7:],
        "5-999999": content[5:],
    }.items():
        code, headers, got = ask(server, path, Range=f"bytes={part}")
        assert code == 206 and got == expected
        assert headers["Content-Range"].endswith(f"/{len(content)}")
    assert ask(server, path, Range=f"bytes={len(content)}-")[0] == 416
    assert ask(server, path, Range="bytes=what")[0] == 200
    assert ask(server, f"/media/{session.items[0].media[0]}")[1]["Content-Type"] == "image/png"


def test_what_is_no_vote_is_refused_and_nothing_is_written(server: Server, session: Session) -> None:
    good = {"id": "1", "rater": "anna", "task": task(server)["task"]["id"], "answer": "left", "seconds": 1}
    for bad, said in [
        ({**good, "task": "elsewhere.prompt.0"}, "no task of this rater"),
        ({**good, "task": 3}, "names its rater"),
        ({**good, "answer": "both"}, "an answer is one of"),
        ({**good, "rater": "a b/../c"}, "names its rater"),
        ({**good, "seconds": "long"}, "seconds cannot be"),
        ({**good, "id": "x" * 99}, "a vote's id"),
        ({k: v for k, v in good.items() if k != "answer"}, "answer is missing"),
        ([good], "a JSON object"),
        (b"{", "Expecting"),
        ({**good, "more": "x" * 5000}, "at most 4096 bytes"),
    ]:
        code, _, reply = ask(server, "/api/votes", bad)
        assert code == 400 and said in json.loads(reply)["error"]
    assert ask(server, "/api/votes", good, **{"Content-Type": "text/plain"})[0] == 400, (
        "as a foreign page's form sends it"
    )
    assert ask(server, "/elsewhere", good)[0] == 400
    assert not session.votes.exists()
    for path in ("/api/task", "/api/task?rater=a%20b", "/api/task?rater=anna&place=99", "/api/task?rater=anna&place=x"):
        assert ask(server, path)[0] == 400


def test_on_loopback_foreign_names_are_refused(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1" and server.url.startswith("http://127.0.0.1:")
    assert ask(server, "/", Host="evil.example:80")[0] == 403
    assert ask(server, "/api/votes", {}, Host="evil.example")[0] == 403
    assert ask(server, "/", Host="localhost:1234")[0] == 200


def test_a_port_in_use_and_votes_of_another_session_are_told(session: Session) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} of 127.0.0.1 is in use: --port N takes another"):
            open_server(session, port=port)
    with pytest.raises(ValueError, match="0 to 65535"):
        open_server(session, port=99999)
    with pytest.raises(ValueError, match="cannot be served"):
        open_server(session, host="192.0.2.1", port=0)
    session.votes.write_text('{"id": "1"}\n')
    with pytest.raises(ValueError, match=r"votes.jsonl, line 1"):
        open_server(session, port=0)


def test_a_disk_that_is_full_is_told_and_the_vote_can_be_sent_again(
    server: Server, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = task(server)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mmflow.people.votes.os.fsync", full)
        code, reply = vote(server, said, "v0")
    assert code == 507 and "sent again" in reply["error"]
    assert vote(server, said, "v0")[0] == 200
    assert len(read_votes(session)) == 1 and replace(read_votes(session)[0], time="").id == "v0"
