"""Whole runs of the loader on shards behind URLs: HTTP with faults, an S3-compatible store, a shard that vanishes."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from media import make_shards
from test_module import attached, on_shards
from test_store import server  # noqa: F401 - a fixture

from mmflow.data import apart
from mmflow.data.index import index_path
from mmflow.data.manifest import write_manifest
from mmflow.data.module import FlowData
from mmflow.data.store import Store
from tests.tools.tool import run

pytestmark = pytest.mark.slow
STORE = Store(tries=4, pause=0.01, timeout=20)


def seen(data: FlowData, steps: int = 6) -> tuple[list[tuple], Counter]:
    """(keys, captions, sums of the pixels) of each batch, and how many holes of which reason."""
    batches = [batch for _, batch in zip(range(steps), data.train_dataloader(), strict=False)]
    found = [(b.keys, b.captions, tuple(int(p.sum()) for p in b.pixels)) for b in batches]
    return found, Counter(hole.reason for batch in batches for hole in batch.holes)


def test_http_with_faults_gives_what_the_disk_gives(server: ThreadingHTTPServer, tmp_path: Path) -> None:  # noqa: F811
    make_shards(server.folder, pictures=[7, 5], clips=[1, 2])
    write_manifest(server.folder)
    tars = [f"{server.url}/{name}.tar" for name in ("00000", "00001")]
    expected, _ = seen(attached(**on_shards(str(server.folder))))
    faults = ["500", "", "cut", "", "", "whole", ""] * 10
    for workers, folder in ((0, None), (2, None), (2, str(tmp_path / "kept"))):
        server.faults.update({"00000.tar": list(faults), "00001.tar": list(faults)})
        store = Store(4, 0.01, 20, folder)
        data = attached(
            **{**on_shards("x"), "train_shards": tars, "val_shards": tars}, store=store, num_workers=workers
        )
        assert seen(data) == (expected, Counter()), (workers, folder)
    assert len(list((tmp_path / "kept").iterdir())) == 2


def test_a_shard_that_vanishes_costs_its_samples_and_not_the_run(tmp_path: Path) -> None:
    folder = make_shards(tmp_path / "shards", pictures=[7, 5], clips=[1, 2])
    write_manifest(folder)
    data = attached(**on_shards(str(folder)), num_workers=1, max_bad_fraction=1.0)
    (folder / "00001.tar").unlink()
    found, holes = seen(data, 6)
    assert holes.keys() == {"missing"} and sum(len(keys) for keys, *_ in found) + holes["missing"] == 48
    assert {key[1] for keys, *_ in found for key in keys} == {"00000"}


def test_a_decoder_that_dies_costs_its_samples_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that starts the decoding process is one that dies on clips."""
    dying = (
        "import os, sys\nfrom mmflow.data import apart\n"
        "def work(media, shot):\n    if shot.medium == 'clip':\n        os.abort()\n"
        "    return apart.take(media, shot)\n"
        "apart.serve(int(sys.argv[1]), work)"
    )
    folder = make_shards(tmp_path / "shards", pictures=[7], clips=[2])
    monkeypatch.setattr(apart, "_of_process", lru_cache(lambda pid: apart.Apart([*apart.COMMAND[:2], dying])))
    data = attached(**on_shards(str(folder)), num_workers=1, max_bad_fraction=1.0)
    found, holes = seen(data, 3)
    assert holes == {"decoder_crash": 12} and sum(len(keys) for keys, *_ in found) == 12


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 bucket of a server in this process; s3fs finds it by the environment, as users' do."""
    pytest.importorskip("moto", reason='needs pip install -e ".[test-s3]"')
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    serving = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    serving.start()
    url = f"http://127.0.0.1:{serving.get_host_and_port()[1]}"
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=url).create_bucket(Bucket="shards")
    s3fs.S3FileSystem.clear_instance_cache()
    yield "s3://shards"
    serving.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_s3_store_is_indexed_and_read(bucket: str, tmp_path: Path) -> None:
    import s3fs

    folder = make_shards(tmp_path / "shards", pictures=[7, 5], clips=[1, 2])
    expected, _ = seen(attached(**on_shards(str(folder))))
    store = s3fs.S3FileSystem()
    for name in ("00000", "00001"):
        store.put_file(str(folder / f"{name}.tar"), f"shards/a/{name}.tar")
        shutil.move(index_path(str(folder / f"{name}.tar")), tmp_path / name)
    done = run("index", f"{bucket}/a/*.tar")
    assert done.returncode == 0, done.stderr
    assert {os.path.basename(name) for name in store.ls("shards/a")} >= {"00000.index.parquet", "manifest.json"}
    for pattern in (f"{bucket}/a", f"{bucket}/a/{{00000..00001}}.tar"):
        for workers, kept in ((0, None), (1, str(tmp_path / "kept"))):
            data = attached(**on_shards(pattern), num_workers=workers, store=Store(3, 0.1, 30, kept))
            assert seen(data) == (expected, Counter())
    store.pipe_file("shards/a/00001.tar", b"x" * 10240)
    with pytest.raises(ValueError, match=r"00001\.tar: changed since it was indexed"):
        attached(**on_shards(f"{bucket}/a/{{00000..00001}}.tar"))
        seen(attached(**on_shards(f"{bucket}/a/{{00000..00001}}.tar")))
