"""Runs tools/shards.py, makes what it is given, and reads what it wrote."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image
from rich.console import Console

import mmflow.data.report
from mmflow.data.index import read_index
from mmflow.data.shard import expand_shards, read_sample
from tests.tools.load import load

ROOT = Path(__file__).parents[2]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / "shards.py"), *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess:
    """What the command does, in this process: a process of its own takes seconds to start."""
    tool = load("shards")
    workers = ["--workers", "1"] if arguments[0] in ("make", "index", "verify") else []
    mmflow.data.report.console = Console(width=200)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = tool.main([*map(str, arguments[:1]), *workers, *map(str, arguments[1:])])
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (24 + seed, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def clip(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for n in range(12):
            frame = np.full((32, 48, 3), 20 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def contents(out: Path) -> dict[str, tuple[bytes, str]]:
    """Source name to media bytes and caption, of all shards of a folder."""
    found = {}
    for tar in expand_shards(str(out)):
        for row in read_index(tar).rows():
            with open(tar, "rb") as stream:
                stream.seek(row.json_offset)
                source = json.loads(stream.read(row.json_size))["source"]
            found[source] = read_sample(tar, row)
    return found
