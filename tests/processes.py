"""Several processes of one run, forked from this one: what torch, Lightning and mmflow cost to import is paid once."""

import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

Work = Callable[[], object]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(work: Work, output: Path, env: dict[str, str]) -> int:
    """Forks a process that does `work` with `env` added, its output in a file; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
        os.environ.update(env)
        torch.set_num_threads(1)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ranks(num: int, work: Work, folder: Path, timeout: float = 900, **env: str) -> list[tuple[int, str]]:
    """Runs `num` ranks as torchrun would start them on one node; exit status and output of each."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(num),
        "LOCAL_WORLD_SIZE": str(num),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        **env,
    }
    outputs = [folder / f"rank-{rank}.txt" for rank in range(num)]
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num)] if num > 1 else [{}]
    shared = shared if num > 1 else {"OMP_NUM_THREADS": "1", **env}
    pids = [start(work, output, shared | place) for output, place in zip(outputs, places, strict=True)]
    codes = wait(pids, timeout)
    return [(code, output.read_text(errors="replace")) for code, output in zip(codes, outputs, strict=True)]


def wait(pids: list[int], timeout: float) -> list[int]:
    """Exit statuses; what is still running after `timeout` seconds, or a minute after another failed, is killed."""
    codes: dict[int, int] = {}
    end = time.monotonic() + timeout
    while len(codes) < len(pids):
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
                    if codes[pid]:
                        end = min(end, time.monotonic() + 60)
        if time.monotonic() > end:
            for pid in pids:
                if pid not in codes:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.05)
    return [codes[pid] for pid in pids]
