"""Bad media on their way into a run: what `index` leaves out, what becomes a hole and is told, and when a run ends."""

import csv
import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmflow.__main__ import main
from mmflow.data.index import build_index, read_index
from mmflow.data.shard import ShardSample, write_shard
from tests.data.media import coded_clip, gradient, picture_bytes, sound_only
from tests.test_bad_input import Said, refused_fit
from tests.test_cli import TINY, mmflow
from tests.tools.tool import run as shards

SMALL = (
    *("--data.resolution", 32, "--data.multiple", 8, "--data.aspects", "[1.0]", "--data.frames", 4, "--data.fps", 5),
    *("--data.val_samples", 0, "--data.batch_size", 8, "--trainer.log_every_n_steps", 1),
)


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def bad_media(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("media")
    film = coded_clip(folder / "film.mp4")
    jpeg = picture_bytes(gradient(64, 64), "JPEG")
    return {
        "bomb.png": bomb(),
        "zero.jpg": b"",
        "noise.jpg": b"not a picture at all",
        "cut.mp4": film[: len(film) * 6 // 10],
        "mute.mp4": sound_only(folder / "sound.mp4"),
        "short.mp4": coded_clip(folder / "short.mp4", frames=3),  # 0.3 s; 4 frames at 5 per second span 0.6
        "half.jpg": jpeg[: len(jpeg) * 2 // 3],
        "good.mp4": film,
    }


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def damage(tar: Path, keys: set[str]) -> None:
    """Zeros instead of a picture, as a failing disk gives them: size and time are as before."""
    index, times = read_index(tar), tar.stat()
    data = bytearray(tar.read_bytes())
    for row in index.rows():
        if row.key in keys:
            data[row.media_offset : row.media_offset + row.media_size] = bytes(row.media_size)
    tar.write_bytes(data)
    os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture(scope="module")
def bad_shards(tmp_path_factory, bad_media) -> Path:
    """A tar that somebody made elsewhere, indexed by the command; one of its pictures is damaged later."""
    folder = tmp_path_factory.mktemp("bad")
    members = {f"good{n}.png": picture_bytes(gradient(40, 40 + n)) for n in range(12)} | bad_media
    members |= {f"{name.split('.')[0]}.txt": f"a {name}".encode() for name in list(members)}
    del members["good3.txt"]
    members["good4.txt"] = b" \n"
    members |= {"../escape.png": members["good0.png"], "/tmp/mmflow-escape.png": members["good0.png"]}
    tar_of(folder / "00000.tar", members)
    said = shards("index", folder)
    assert said.returncode == 0, said.stderr
    for reason in ("bomb", "empty", "corrupt", "truncated", "no_video", "unsafe_name"):
        assert reason in said.stdout
    assert "13 pictures and 2 clips in 1 shards, 2 without a caption" in said.stdout
    assert not Path("/tmp/mmflow-escape.png").exists() and not (folder.parent / "escape.png").exists()
    damage(folder / "00000.tar", {"good7"})
    return folder


def wandb_history(folder: Path) -> Iterator[dict[str, str]]:
    """The logged rows of an offline W&B run: 32 KiB blocks of records (crc, length, type of fragment) of protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.rglob("run-*.wandb")
    data, position, whole = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = Record.FromString(whole)
            if record.WhichOneof("record_type") == "history":
                yield {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            whole = b""


def test_holes_are_counted_logged_and_do_not_end_a_small_run(bad_shards: Path, tmp_path: Path) -> None:
    """In a process of its own, with two workers: 15 samples, 4 passes."""
    out = tmp_path / "run"
    said = mmflow(
        *("fit", "--config", TINY, "--trainer.default_root_dir", out, "--data.train_shards", bad_shards, *SMALL),
        *("--data.val_shards", bad_shards, "--data.num_workers", 2, "--data.epochs", 4, "--trainer.max_steps", 99),
        *("--wandb.mode", "offline"),
    )
    assert "data: 13 pictures (2 without a caption), 50% of each step" in said
    ledger = json.loads((out / "ledger.json").read_text())
    samples = ledger["samples"]
    assert sum(samples.values()) == 60 and set(samples) == {"used", "corrupt", "truncated", "too_short"}
    assert samples["too_short"] == 15 and 0 < samples["corrupt"] <= 4 and 0 < samples["truncated"] <= 4
    assert ledger["examples"]["corrupt"][0].startswith("shards/00000/good7: ")
    assert "lasts 0.300 s (3 frames), 4 frames at 5 per second" in ledger["examples"]["too_short"][0]
    for reason in ("corrupt", "truncated", "too_short"):
        assert f"a sample cannot be read ({reason}), shards/00000/" in said
    assert f"data: {60 - samples['used']} samples could not be read" in said
    with (out / "metrics.csv").open(newline="") as file:
        last = [row for row in csv.DictReader(file) if row["data/bad"]][-1]
    logged = [row for row in wandb_history(out) if "data/bad" in row][-1]
    for name, number in {**samples, "": 60 - samples["used"]}.items():
        if name != "used":
            key = f"data/bad_{name}" if name else "data/bad"
            assert float(last[key]) == float(logged[key]) == number


def many(folder: Path, number: int, bad: int) -> Path:
    picture = picture_bytes(gradient(16, 16))
    folder.mkdir()
    write_shard(folder / "00000.tar", [ShardSample(f"{n:09d}", "png", picture, f"number {n}") for n in range(number)])
    build_index(folder / "00000.tar")
    damage(folder / "00000.tar", {f"{n:09d}" for n in range(bad)})
    return folder


LARGE = (*SMALL, "--data.resolution", 16, "--data.clip_share", 0, "--data.batch_size", 20, "--trainer.max_steps", 11)


@pytest.mark.filterwarnings("ignore")
def test_a_run_ends_when_too_many_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmflow.data.ledger.JUDGED_FROM", 100)  # to wait for 1,000 takes too long here
    folder = many(tmp_path / "shards", 120, bad=5)
    command = ["fit", "--config", TINY, "--data.train_shards", folder / "00000.tar", *LARGE]
    command += ["--data.val_shards", folder, "--trainer.default_root_dir"]
    with pytest.raises(RuntimeError, match=r"\d+ of the last 100 samples could not be read, more than data\.max_bad_"):
        main([*map(str, command), str(tmp_path / "run")])
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert sum(ledger["samples"].values()) == 100 and len(ledger["examples"]["corrupt"]) == 5
    main([*map(str, command), str(tmp_path / "allowed"), "--data.max_bad_fraction", "0.06"])
    ledger = json.loads((tmp_path / "allowed" / "ledger.json").read_text())
    assert sum(ledger["samples"].values()) == 220


@pytest.mark.filterwarnings("ignore")
def test_a_small_set_ends_a_run_when_nothing_is_left(tmp_path: Path) -> None:
    folder = many(tmp_path / "shards", 20, 20)
    command = ["fit", "--config", TINY, "--trainer.default_root_dir", tmp_path / "run", "--data.train_shards", folder]
    with pytest.raises(RuntimeError, match="none of the 20 samples can be read any more"):
        main(list(map(str, [*command, *LARGE, "--data.val_shards", folder, "--data.batch_size", 8])))


def test_tars_that_cannot_be_trained_on(tmp_path: Path, capfd: Said, bad_media: dict[str, bytes]) -> None:
    empty = tar_of(tmp_path / "empty" / "00000.tar", {})
    picture = picture_bytes(gradient())
    cut = tar_of(tmp_path / "cut" / "00000.tar", {"a.png": picture, "a.txt": b"a", "b.png": picture})
    whole = cut.read_bytes()
    cut.write_bytes(whole[: whole.index(b"b.png") + 700])
    rotten = tar_of(tmp_path / "rotten" / "00000.tar", {"a.png": bad_media["bomb.png"]})
    for tar, words in [
        (empty, "no readable sample: it has no media files"),
        (cut, "not a whole plain tar"),
        (rotten, "no readable sample: {'bomb': 1}"),
    ]:
        said = refused_fit(capfd, tmp_path / "run", "--data.train_shards", tar.parent)
        assert f"python tools/shards.py index {tar}" in said
        done = shards("index", tar.parent)
        assert done.returncode == 1 and words in done.stderr and str(tar) in done.stderr
    cut.write_bytes(whole)
    assert shards("index", cut.parent).returncode == 0
    cut.write_bytes(whole[:-1024])
    said = refused_fit(capfd, tmp_path / "run", "--data.train_shards", cut.parent)
    assert f"{cut}: changed since it was indexed" in said and f"python tools/shards.py index {cut}" in said


def test_what_is_no_shards_prints_the_line_to_paste(tmp_path: Path, capfd: Said) -> None:
    folder = tmp_path / "my photos"
    (folder / "hf").mkdir(parents=True)
    (folder / "hf" / "train.parquet").touch()
    (folder / "list.csv").write_text("file,text\n")
    for shards_, line in [
        (folder, f"python tools/shards.py make '{folder}' 'my photos-shards'"),
        (folder / "hf", f"python tools/shards.py make '{folder / 'hf'}' hf-shards"),
        (folder / "list.csv", f"python tools/shards.py make '{folder / 'list.csv'}' list-shards"),
    ]:
        assert line in refused_fit(capfd, tmp_path / "run", "--data.train_shards", shards_)


def test_misspelt_groups_of_shards(tmp_path: Path, capfd: Said) -> None:
    said = refused_fit(capfd, tmp_path / "run", "--data.train_shards", "[{shards: a, wieght: 2}]")
    assert "wieght" in said
    config = tmp_path / "run.yaml"
    config.write_text("data:\n  train_shards:\n  - shards: a\n    wieght: 2\n")
    said = refused_fit(capfd, tmp_path / "run", "--config", config)
    assert "wieght" in said


def test_make_leaves_out_what_is_bad(tmp_path: Path, bad_media: dict[str, bytes]) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    for name, data in bad_media.items():
        (folder / name).write_bytes(data)
    done = shards("make", folder, tmp_path / "out", "--caption-from", "filename")
    assert done.returncode == 0, done.stderr
    left = map(json.loads, (tmp_path / "out" / "left_out.jsonl").read_text().splitlines())
    assert {each["name"]: each["reason"] for each in left} == {
        "bomb.png": "bomb",
        "zero.jpg": "empty",
        "noise.jpg": "corrupt",
        "cut.mp4": "truncated",
        "mute.mp4": "no_video",
        "half.jpg": "truncated",
    }
    assert "0 pictures and 2 clips" in done.stdout  # the short one is whole, and long enough for fewer frames
