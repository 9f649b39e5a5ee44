"""Decoding in a process of its own: a decoder that crashes or hangs costs one sample, not the loader's worker.

The process is started anew, never forked, by a worker that has not decoded anything itself. It ends with the worker.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, final

import numpy as np
from jaxtyping import UInt8

from mmflow.data.container import UnreadableSample
from mmflow.data.pixels import Shot, take

COMMAND = (sys.executable, "-c", "import sys; from mmflow.data.apart import serve; serve(int(sys.argv[1]))")
STARTING = 120.0
"""Seconds that a process may take to start, beside those for decoding."""


@final
class Apart:
    """One process that decodes, started when it is first needed and again after each end.

    Args:
        command: starts it; the number of a socket's descriptor is put at its end.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = list(command)
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None

    def take(self, media: bytes, shot: Shot, timeout: float) -> UInt8[np.ndarray, "T H W 3"]:
        """`pixels.take`, within `timeout` seconds.

        Raises:
            UnreadableSample: as of `take`; decoder_crash or decoder_timeout if the process ended or did not.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None and self._socket is not None
        try:
            self._socket.settimeout(timeout)
            _send(self._socket, (media, shot))
            kind, *answer = _receive(self._socket, time.monotonic() + timeout)
        except TimeoutError as error:
            self.end()
            raise UnreadableSample("decoder_timeout", f"the decoder took more than {timeout:g} s") from error
        except (OSError, EOFError) as error:
            code = self.end()
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise UnreadableSample("decoder_crash", f"the decoder's process ended ({name})") from error
        if kind == "unreadable":
            raise UnreadableSample(*answer)
        shape, data = answer
        return np.frombuffer(data, np.uint8).reshape(shape)

    def _start(self) -> None:
        self.end()
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._socket = ours
        # The first word says that all is imported: that time is no file's.
        with contextlib.suppress(OSError, EOFError):
            _receive(ours, time.monotonic() + STARTING)

    def end(self) -> int:
        """Ends the process, hanging or not; its exit code."""
        if self._socket is not None:
            self._socket.close()
        if self._process is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        self._process.kill()
        code = self._process.wait()
        self._process = self._socket = None
        return code


@lru_cache(maxsize=1)
def _of_process(pid: int) -> Apart:
    return Apart()


def take_apart(media: bytes, shot: Shot, timeout: float) -> UInt8[np.ndarray, "T H W 3"]:
    """`Apart.take` by the one decoding process that this process has."""
    return _of_process(os.getpid()).take(media, shot, timeout)


def serve(descriptor: int, work: Callable[[bytes, Shot], np.ndarray] = take) -> None:
    """What the process does until the other end of the socket is closed."""
    with contextlib.suppress(OSError, AttributeError):  # ends with its parent even inside a decoder, on Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as connection:
        _send(connection, ("ready",))
        while True:
            try:
                media, shot = _receive(connection, None)
            except EOFError:
                return
            try:
                frames = np.ascontiguousarray(work(media, shot))
                _send(connection, ("frames", frames.shape, frames.tobytes()))
            except UnreadableSample as error:
                _send(connection, ("unreadable", error.reason, error.detail))


def _send(connection: socket.socket, message: Any) -> None:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    connection.sendall(len(data).to_bytes(8, "little") + data)


def _receive(connection: socket.socket, deadline: float | None) -> Any:
    """Only what the two processes of one program send each other is unpickled."""
    size = int.from_bytes(_exactly(connection, 8, deadline), "little")
    return pickle.loads(_exactly(connection, size, deadline))


def _exactly(connection: socket.socket, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        if deadline is not None:
            connection.settimeout(max(deadline - time.monotonic(), 1e-3))
        more = connection.recv_into(view[got:])
        if not more:
            raise EOFError
        got += more
    return data
