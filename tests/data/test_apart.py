"""Decoding in a process apart: the same pixels, and one sample lost to a decoder that crashes or hangs."""

import os
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from media import gradient, picture_bytes

from mmflow.data.apart import Apart
from mmflow.data.container import UnreadableSample
from mmflow.data.pixels import Shot, take

SHOT = Shot("picture", (16, 24), (0.25, 0.75), 1, 8.0, 0.0, (255, 255, 255))
WORK = """
import os, signal, sys, time
from mmflow.data import apart
from mmflow.data.pixels import take

def work(media, shot):
    if media == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if media == b"exit":
        os._exit(3)
    if media == b"hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    return take(media, shot)

apart.serve(int(sys.argv[1]), work)
"""


@pytest.fixture(scope="module")
def apart() -> Iterator[Apart]:
    process = Apart([sys.executable, "-c", textwrap.dedent(WORK)])
    yield process
    process.end()


def test_pixels_are_the_same_and_bad_files_are_told(apart: Apart) -> None:
    media = picture_bytes(gradient())
    for _ in range(2):
        assert np.array_equal(apart.take(media, SHOT, 30), take(media, SHOT))
    with pytest.raises(UnreadableSample, match="corrupt"):
        apart.take(b"no picture", SHOT, 30)


@pytest.mark.parametrize(
    ("media", "timeout", "said"),
    [
        (b"crash", 30, r"decoder_crash: .*SIGSEGV"),
        (b"exit", 30, "exit code 3"),
        (b"hang", 0.3, "decoder_timeout: .*0.3 s"),
    ],
)
def test_a_crash_or_a_hang_costs_one_sample(apart: Apart, media: bytes, timeout: float, said: str) -> None:
    picture = picture_bytes(gradient())
    apart.take(picture, SHOT, 30)
    first = apart._process.pid
    began = time.monotonic()
    with pytest.raises(UnreadableSample, match=said):
        apart.take(media, SHOT, timeout)
    assert time.monotonic() - began < 20
    assert apart.take(picture, SHOT, 30).shape == (1, 16, 24, 3) and apart._process.pid != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_it_ends_with_whoever_started_it(apart: Apart) -> None:
    apart.take(picture_bytes(gradient()), SHOT, 30)
    process = apart._process
    apart._socket.close()
    assert process.wait(timeout=20) == 0


def test_the_process_imports_no_torch() -> None:
    source = Path(__file__).parents[2] / "mmflow" / "data"
    names = ("apart", "pixels", "decode", "colour", "container", "transform")
    assert all("import torch" not in (source / f"{name}.py").read_text() for name in names)
