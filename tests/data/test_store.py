"""Files behind URLs: against a local HTTP server that fails, stalls, cuts short, forgets ranges and loses files."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from media import make_shards

from mmflow.data.container import UnreadableSample
from mmflow.data.index import read_index
from mmflow.data.manifest import write_manifest
from mmflow.data.shard import read_sample
from mmflow.data.store import Store, is_remote, read_range

QUICK = Store(tries=3, pause=0.001, timeout=5)


class Faults(BaseHTTPRequestHandler):
    """Serves a folder; what goes wrong is in the server's `faults`: a file name to its next ones."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server, name = self.server, self.path.rsplit("/", 1)[-1]
        server.asked[name] += self.command == "GET"
        fault = server.faults[name].pop(0) if self.command == "GET" and server.faults.get(name) else ""
        file = server.folder / name
        if fault == "500":
            return self.send_error(500)
        if fault == "gone" or not file.is_file():
            return self.send_error(404)
        if fault == "slow":
            time.sleep(1.5)
        data = file.read_bytes()
        total, asked = len(data), self.headers.get("Range")
        ranged = asked is not None and fault != "whole"
        start = 0
        if ranged:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first)
            data = data[start : int(last) + 1 if last else None]
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{total}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
            if fault == "cut":
                self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Faults)
    serving.folder, serving.faults, serving.asked = tmp_path / "served", {}, Counter()
    serving.folder.mkdir()
    serving.url = f"http://127.0.0.1:{serving.server_address[1]}"
    (serving.folder / "a").write_bytes(bytes(range(256)) * 40)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield serving
    serving.shutdown()
    serving.server_close()


@pytest.mark.parametrize("faults", [[], ["500"], ["500", "500"], ["cut"], ["cut", "500"], ["whole"]])
def test_bytes_come_in_the_end_and_are_the_right_ones(server: ThreadingHTTPServer, faults: list[str]) -> None:
    server.faults["a"] = list(faults)
    assert read_range(server.url + "/a", 300, 310, QUICK) == bytes(range(44, 54))
    assert server.asked["a"] == len(faults) + (faults != ["whole"])


def test_what_stays_broken_costs_a_sample_and_says_how_often_it_was_tried(server: ThreadingHTTPServer) -> None:
    for faults, reason, word in (
        (["500"] * 3, "io", "tried 3 times"),
        (["cut"] * 3, "io", "tried 3 times"),
        (["gone"], "missing", "no such file"),
    ):
        server.faults["a"] = faults
        with pytest.raises(UnreadableSample, match=word) as raised:
            read_range(server.url + "/a", 0, 5000, QUICK)
        assert raised.value.reason == reason and server.url in raised.value.detail
    with pytest.raises(UnreadableSample, match=r"truncated: .* 100 bytes before"):
        read_range(server.url + "/a", 10_000, 10_340, QUICK)


def test_a_slow_answer_is_not_waited_for(server: ThreadingHTTPServer) -> None:
    server.faults["a"] = ["slow"]
    began = time.monotonic()
    assert read_range(server.url + "/a", 1, 3, Store(tries=2, pause=0, timeout=0.3)) == b"\1\2"
    assert time.monotonic() - began < 1.4


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreadableSample, match=r"io: .*tried 2 times"):
        read_range("http://127.0.0.1:9/a", 0, 1, Store(tries=2, pause=0.001))


def test_the_file_cache_holds_whole_files_within_its_bound(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    kept = Store(tries=3, pause=0.001, cache_folder=str(tmp_path / "kept"), cache_gigabytes=25e-6)
    for name in "bcd":
        (server.folder / name).write_bytes(name.encode() * 10_000)
    server.faults["b"] = ["cut", "500"]
    assert [read_range(f"{server.url}/b", n, n + 2, kept) for n in range(50)] == [b"bb"] * 50
    assert server.asked["b"] == 3, "two faults, and one that gave the whole file"
    for name in "cbdb":
        assert read_range(f"{server.url}/{name}", 9_999, 10_000, kept) == name.encode()
    assert server.asked["b"] == 3, "it was read between, so the other one went"
    names = sorted(file.name[-1] for file in (tmp_path / "kept").iterdir())
    assert names == ["b", "d"] and not list((tmp_path / "kept").glob(".*"))
    with pytest.raises(UnreadableSample, match="missing"):
        read_range(f"{server.url}/none", 0, 1, kept)


def test_shards_behind_a_url(server: ThreadingHTTPServer) -> None:
    make_shards(server.folder, pictures=[3], clips=[1])
    write_manifest(server.folder)
    tar = f"{server.url}/00000.tar"
    server.faults["00000.index.parquet"] = ["500", "cut"]
    index = read_index(tar)
    for number, row in enumerate(index.rows()):
        server.faults["00000.tar"] = [["500"], ["cut"], ["whole"], []][number]
        assert read_sample(tar, row, QUICK) == read_sample(str(server.folder / "00000.tar"), row)


def test_only_other_machines_are_asked_twice(tmp_path: Path) -> None:
    assert [is_remote(u) for u in ("/a.tar", "file:///a", "memory://a", "http://a", "s3://a")] == [False] * 3 + [
        True
    ] * 2
    with pytest.raises(UnreadableSample, match="missing"):
        read_range(str(tmp_path / "none.tar"), 0, 1)
    for bad in ({"tries": 0}, {"timeout": 0}, {"cache_gigabytes": 0}, {"pause": -1}):
        with pytest.raises(ValueError, match=r"data\.store"):
            Store(**bad)
