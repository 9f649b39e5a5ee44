"""Every kind of source through the real command: what goes in, what is left out and why, and what is said of it."""

import json
import os
import re
import signal
import subprocess
import tarfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tool import ENVIRONMENT, clip, command, contents, picture, run

from mmflow.data.decode import decode_clip, read_header
from mmflow.data.index import read_index


def left_out(out: Path) -> dict[str, str]:
    return {each["name"]: each["reason"] for each in map(json.loads, (out / "left_out.jsonl").read_text().splitlines())}


def captions(out: Path) -> dict[str, str]:
    return {name: caption for name, (_, caption) in contents(out).items()}


@pytest.fixture
def media(tmp_path):
    folder = tmp_path / "media"
    for n in range(3):
        picture(folder / f"{n}.png", n)
    clip(folder / "film.mp4")
    return folder


ROWS = [("0.png", "naught, ünï"), ("1.png", "一"), ("film.mp4", "a film"), ("gone.png", "gone"), ("2.png", "")]


def write_list(path: Path, rows: list[dict]) -> Path:
    names = list(rows[0])
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in names}), path)
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        quoted = [[f'"{value}"' for value in row.values()] for row in rows]
        path.write_text("\n".join(mark.join(line) for line in [names, *quoted]) + "\n")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_a_list_of_files(media, tmp_path, suffix):
    rows = [{"where": file, "what": caption, "n": n} for n, (file, caption) in enumerate(ROWS)]
    source = write_list(media / f"list.{suffix}", rows)
    done = run("make", source, tmp_path / "out", "--file-column", "where", "--caption-column", "what")
    assert done.returncode == 0, done.stderr
    assert "a list of files in 'where', captions: 'what': 3 files" in done.stdout
    assert captions(tmp_path / "out") == dict(ROWS[:3])
    assert contents(tmp_path / "out")["1.png"][0] == (media / "1.png").read_bytes()
    assert left_out(tmp_path / "out") == {"gone.png": "missing", "2.png": "no_caption"}
    wrong = run("make", source, tmp_path / "other", "--file-column", "were", "--caption-column", "what")
    assert wrong.returncode == 1 and "no column 'were' (--file-column). It has: where, what, n" in wrong.stderr
    wrong = run("make", source, tmp_path / "other", "--file-column", "where", "--template", "a {waht}")
    assert wrong.returncode == 1 and "no column 'waht' (--template). It has: where, what, n" in wrong.stderr
    guess = run("make", source, tmp_path / "other", "--caption-column", "what")
    assert guess.returncode == 1 and "which column has the files? it has: where, what, n" in guess.stderr
    assert not (tmp_path / "other").exists()


def test_columns_are_found_by_their_usual_names(media, tmp_path):
    source = write_list(media / "list.csv", [{"URL": "x", "Path": file, "TEXT": text} for file, text in ROWS])
    assert run("make", source, tmp_path / "out").returncode == 0
    assert captions(tmp_path / "out") == dict(ROWS[:3])
    bare = write_list(media / "bare.csv", [{"path": "0.png"}, {"path": "1.png"}])
    (media / "0.txt").write_text("from beside")
    done = run("make", bare, tmp_path / "bare")
    assert "captions: the .txt or .json beside each file" in done.stdout
    assert captions(tmp_path / "bare") == {"0.png": "from beside"}


def test_parts_of_a_film_start_where_the_list_says(media, tmp_path):
    """Frame n of the film, at 8 per second, is grey of 20 n."""
    spans = [(0.0, 0.5), (0.5, 1.5), (0.625, 1.0), (1.0, 0.5), (0.5, 9.0), ("?", 1.0)]
    rows = [{"video": "film.mp4", "from": a, "to": b, "caption": f"{a} to {b}"} for a, b in spans]
    rows.append({"video": "0.png", "from": 0, "to": 1, "caption": "a picture"})
    source = write_list(media / "spans.csv", rows)
    done = run("make", source, tmp_path / "out", "--start-column", "from", "--end-column", "to")
    assert done.returncode == 0, done.stderr
    assert "a list of parts of films in 'video', 'from' to 'to'" in done.stdout
    made = contents(tmp_path / "out")
    assert {name: caption for name, (_, caption) in made.items()} == {
        "film.mp4#0-0.5": "0.0 to 0.5",
        "film.mp4#0.5-1.5": "0.5 to 1.5",
        "film.mp4#0.625-1": "0.625 to 1.0",
    }
    for (start, end), name in zip(spans[:3], made, strict=True):
        header = read_header(made[name][0], "mp4")
        assert header.duration == pytest.approx(end - start, abs=1e-3) and header.frames == round((end - start) * 8)
        frames = decode_clip(made[name][0], header.frames, 8.0, 0.0)
        shown = np.round(frames.mean((1, 2, 3)) / 20).astype(int).tolist()
        assert shown == list(range(round(start * 8), round(end * 8)))
    assert set(left_out(tmp_path / "out").values()) == {"bad_span"}
    assert "the film ends at 1.50 s" in (tmp_path / "out" / "left_out.jsonl").read_text()
    half = run("make", source, tmp_path / "other", "--start-column", "from")
    assert half.returncode == 1 and "--start-column and --end-column go together" in half.stderr


def embedded(path: Path, media: Path, labels: list[int], names: list[str] | None = None) -> Path:
    """As `datasets` writes pictures: a struct of bytes and path, and the names of the labels in the schema."""
    cells = [{"bytes": (media / f"{n % 3}.png").read_bytes(), "path": f"{n}.png"} for n in range(len(labels))]
    table = pa.table({"image": cells, "label": labels, "raw": [cell["bytes"] for cell in cells]})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


def test_embedded_files_and_a_template_of_class_names(media, tmp_path):
    source = embedded(tmp_path / "hf" / "train-00000-of-00001.parquet", media, [0, 1, -1, 1], ["cat", "sea horse"])
    several = run("make", source, tmp_path / "out", "--template", "a {label}")
    assert several.returncode == 1 and "image, raw hold files. Say it: --file-column NAME" in several.stderr
    options = ("--file-column", "image", "--template", "a photo of a {label}")
    done = run("make", source, tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    assert "parquet with embedded files in 'image', captions: 'a photo of a {label}'" in done.stdout
    name = source.name
    expected = {
        f"{name}#0": "a photo of a cat",
        f"{name}#1": "a photo of a sea horse",
        f"{name}#3": "a photo of a sea horse",
    }
    assert captions(tmp_path / "out") == expected
    assert contents(tmp_path / "out")[f"{name}#1"][0] == (media / "1.png").read_bytes()
    assert left_out(tmp_path / "out") == {f"{name}#2": "no_caption"}
    assert {row.extension for row in read_index(tmp_path / "out" / "00000.tar").rows()} == {"png"}
    raw = run("make", source, tmp_path / "raw", "--file-column", "raw", "--caption-column", "label")
    assert raw.returncode == 0 and captions(tmp_path / "raw")[f"{name}#1"] == "sea horse"


def test_a_folder_or_glob_of_parquet(media, tmp_path):
    for part in ("train-00000", "train-00001", "test-00000"):
        table = pq.read_table(embedded(tmp_path / "x.parquet", media, [5, 6]))
        (tmp_path / "hf" / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table.drop_columns(["raw"]), tmp_path / "hf" / "data" / f"{part}.parquet")
    done = run("make", tmp_path / "hf", tmp_path / "all", "--template", "number {label}")
    assert done.returncode == 0 and "3 lists" in done.stdout and len(captions(tmp_path / "all")) == 6
    assert captions(tmp_path / "all")["data/train-00001.parquet#1"] == "number 6"
    done = run("make", tmp_path / "hf" / "data" / "train-*.parquet", tmp_path / "train", "--template", "number {label}")
    assert done.returncode == 0 and len(captions(tmp_path / "train")) == 4
    (tmp_path / "hf" / "data" / "train-00001.parquet").write_bytes(b"PAR1 cut")
    done = run("make", tmp_path / "hf", tmp_path / "rest", "--template", "number {label}")
    assert done.returncode == 0 and left_out(tmp_path / "rest") == {"train-00001.parquet": "bad_parquet"}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_an_image_folder_by_its_metadata(media, tmp_path, suffix):
    picture(media / "more" / "9.png", 9)
    write_list(media / f"metadata.{suffix}", [{"file_name": file, "text": text} for file, text in ROWS])
    write_list(media / "more" / f"metadata.{suffix}", [{"file_name": "9.png", "text": "nine"}])
    picture(media / "unknown.png")
    done = run("make", media, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert f"an image folder by its metadata.{suffix}, more/metadata.{suffix}" in done.stdout
    assert captions(tmp_path / "out") == {**dict(ROWS[:3]), "more/9.png": "nine"}
    assert left_out(tmp_path / "out") == {"gone.png": "missing", "2.png": "no_caption", "unknown.png": "not_listed"}


def foreign_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return path


def test_tars_that_img2dataset_wrote(media, tmp_path):
    png, film = (media / "0.png").read_bytes(), (media / "film.mp4").read_bytes()
    about = {"caption": "by json", "long": "by long", "url": "http://x/y.png", "width": 32, "error": None}
    foreign_tar(
        tmp_path / "in" / "00000.tar",
        {
            "000000000.png": png,
            "000000000.txt": b"by txt",
            "000000000.json": json.dumps(about).encode(),
            "000000001.mp4": film,
            "000000001.json": json.dumps(about).encode(),
            "000000002.png": png,
            "000000002.txt": b" ",
            "000000003.txt": b"alone",
            "../escape.png": png,
            "/root.png": png,
        },
    )
    (tmp_path / "in" / "00001.tar").write_bytes((tmp_path / "in" / "00000.tar").read_bytes()[:900])
    (tmp_path / "in" / "00000_stats.json").write_text("{}")
    done = run("make", tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "2 tar(s) as img2dataset and video2dataset write them, captions: .txt, else .json" in done.stdout
    assert captions(tmp_path / "out") == {"00000/000000000": "by txt", "00000/000000001": "by json"}
    assert left_out(tmp_path / "out") == {
        "00000/000000002": "no_caption",
        "00000/000000003": "no_media",
        "00000/../escape.png": "unsafe_name",
        "00000//root.png": "unsafe_name",
        str(tmp_path / "in" / "00001.tar"): "bad_tar",
    }
    assert not list(tmp_path.rglob("escape.png")) and not Path("/root.png").exists()
    row = next(read_index(tmp_path / "out" / "00000.tar").rows())
    with (tmp_path / "out" / "00000.tar").open("rb") as tar:
        tar.seek(row.json_offset)
        kept = json.loads(tar.read(row.json_size))
    assert kept["url"] == "http://x/y.png" and kept["source"] == "00000/000000000" and "error" not in kept
    done = run("make", tmp_path / "in" / "00000.tar", tmp_path / "long", "--caption-column", "long")
    assert captions(tmp_path / "long") == {"00000/000000000": "by long", "00000/000000001": "by long"}
    wrong = run("make", tmp_path / "in", tmp_path / "other", "--caption-column", "lang")
    assert wrong.returncode == 1
    assert "no column 'lang' (--caption-column). It has: caption, long, url, width, error" in wrong.stderr


def test_files_that_video2dataset_wrote(media, tmp_path):
    folder = tmp_path / "in" / "00000"
    folder.mkdir(parents=True)
    clip(folder / "000000000.mp4")
    (folder / "000000000.json").write_text(json.dumps({"caption": "ein Film", "clips": [[0, 1]], "url": "u"}))
    picture(folder / "000000001.png")
    (folder / "000000001.json").write_text("{broken")
    (tmp_path / "in" / "00000_stats.json").write_text("{}")
    pq.write_table(pa.table({"url": ["u"]}), tmp_path / "in" / "00000.parquet")
    done = run("make", tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "a folder of media files with captions beside them" in done.stdout
    assert captions(tmp_path / "out") == {"00000/000000000.mp4": "ein Film"}
    assert left_out(tmp_path / "out") == {
        "00000/000000001.png": "caption_json",
        "00000.parquet": "unsupported",
        "00000_stats.json": "no_media",
    }


def test_what_a_source_is_not(media, tmp_path):
    mixed = tmp_path / "mixed"
    picture(mixed / "a.png")
    foreign_tar(mixed / "a.tar", {"b.txt": b"b"})
    (tmp_path / "lists").mkdir()
    write_list(tmp_path / "lists" / "one.csv", [{"file": "x", "text": "y"}])
    (tmp_path / "broken.jsonl").write_text('{"file": "a"}\n{"file": \n')
    (tmp_path / "short.csv").write_text("file,text\na.png\n")
    (tmp_path / "latin.csv").write_bytes(b"file,text\na.png,caf\xe9\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "notes.pdf").touch()
    for source, options, words in [
        (mixed, [], ["both media files and tars", f"'{mixed}/*.tar'"]),
        (tmp_path / "lists", [], ["Give the list itself", "one.csv"]),
        (tmp_path / "broken.jsonl", [], ["broken.jsonl, line 2: no JSON"]),
        (tmp_path / "short.csv", [], ["short.csv, record 2: 1 values for 2 columns"]),
        (tmp_path / "latin.csv", [], ["latin.csv: not UTF-8"]),
        (tmp_path / "empty.csv", [], ["empty.csv: an empty list"]),
        (tmp_path / "notes.pdf", [], ["notes.pdf: not a folder, a list (csv"]),
        (tmp_path / "gone" / "*.tar", [], ["no file matches"]),
        (media, ["--file-column", "file"], ["a folder of media", "--file-column is for lists"]),
        (media, ["--template", "a photo"], ["'a photo' names no column in braces", "--caption"]),
        (media, ["--caption-column", "a", "--template", "{a}"], ["give one of them"]),
        (media, ["--caption", "x", "--workers", "0"], ["--workers 0: give at least 1"]),
    ]:
        done = run("make", source, tmp_path / "out", *options)
        assert done.returncode == 1, source
        for word in words:
            assert word in done.stderr, done.stderr


def test_several_processes_give_the_bytes_of_one_also_after_a_kill(tmp_path):
    folder = tmp_path / "photos"
    for n in range(24):
        picture(folder / f"{n:02d}.png", n).with_suffix(".txt").write_text(str(n))
    (folder / "05.png").write_bytes(b"no picture")
    options = ("--samples-per-shard", "3", "--val-fraction", "0.2")
    assert run("make", folder, tmp_path / "one", *options).returncode == 0
    expected = {str(p.relative_to(tmp_path / "one")): p.read_bytes() for p in (tmp_path / "one").rglob("*.tar")}
    two = tmp_path / "two"
    begun = subprocess.Popen(
        command("make", folder, two, *options, "--workers", 2), env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(two.rglob("*_stats.json")) and time.monotonic() < deadline and begun.poll() is None:
        time.sleep(0.02)
    os.kill(begun.pid, signal.SIGKILL)
    begun.wait()
    for path in two.glob("*.tar"):  # whole or not there
        assert path.read_bytes() == expected[path.name]
    done = subprocess.run(
        command("make", folder, two, *options, "--workers", 2, "--resume"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert {str(p.relative_to(two)): p.read_bytes() for p in two.rglob("*.tar")} == expected
    assert left_out(two) == {"05.png": "corrupt"}
    assert re.search(r"png picture +│ +23", done.stdout)
    assert not list(two.rglob(".*"))


def test_the_command_is_a_program(media, tmp_path):
    done = subprocess.run(
        command("make", media, tmp_path / "out"), env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr and "add .txt captions" in done.stderr
