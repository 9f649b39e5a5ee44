import json

import pytest
from PIL import Image
from tool import clip, contents, picture, run

from mmflow.data.index import read_index
from mmflow.data.manifest import read_manifest


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    for n, name in enumerate(["a.jpg", "b.png", "trip/c.webp", "trip/d.JPEG", "e.bmp"]):
        path = picture(folder / name, n)
        path.with_suffix(".txt").write_text(f"picture {n}, ünïcode [red]\n")
    clip(folder / "film.mp4").with_suffix(".txt").write_text("a clip")
    return folder


def test_make_keeps_bytes_and_captions(folder, tmp_path):
    out = tmp_path / "out"
    done = run("make", folder, out, "--samples-per-shard", 4)
    assert done.returncode == 0, done.stderr
    assert "5 pictures and 1 clips in 2 shards" in done.stdout
    assert "--data.train_shards" in done.stdout
    found = contents(out)
    assert sorted(found) == ["a.jpg", "b.png", "e.bmp", "film.mp4", "trip/c.webp", "trip/d.JPEG"]
    for name, (media, caption) in found.items():
        assert media == (folder / name).read_bytes()
        assert caption == (folder / name).with_suffix(".txt").read_text().strip()
    assert [row.key for row in read_index(out / "00001.tar").rows()] == ["000010000", "000010001"]
    manifest = read_manifest(out)
    assert (manifest.samples, manifest.pictures, manifest.clips) == (6, 5, 1)
    assert Image.open(out / "contact_sheet.png").width > 300
    assert run("verify", out).returncode == 0


def test_make_twice_gives_equal_tars_and_resume_goes_on(folder, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        assert run("make", folder, out, "--samples-per-shard", 2).returncode == 0
    tars = {tar.name: tar.read_bytes() for tar in one.glob("*.tar")}
    assert tars == {tar.name: tar.read_bytes() for tar in two.glob("*.tar")}
    again = run("make", folder, two, "--samples-per-shard", 2)
    assert again.returncode == 1
    assert "already has shards" in again.stderr
    assert "--resume" in again.stderr
    # as if killed while the second shard was written
    (two / "00001_stats.json").unlink()
    (two / "00001.index.parquet").unlink()
    (two / "00001.tar").write_bytes(b"half")
    (two / ".00001.tar.77.part").write_bytes(b"half")
    untouched = (two / "00000.tar").stat().st_mtime_ns
    assert run("make", folder, two, "--samples-per-shard", 2, "--resume").returncode == 0
    assert tars == {tar.name: tar.read_bytes() for tar in two.glob("*.tar")}
    assert (two / "00000.tar").stat().st_mtime_ns == untouched
    assert not list(two.glob(".*"))
    other = run("make", folder, two, "--samples-per-shard", 3, "--resume")
    assert other.returncode == 1
    assert "samples_per_shard (2 then, 3 now)" in other.stderr


def test_what_is_left_out_is_told_by_reason(folder, tmp_path):
    picture(folder / "silent.png")
    picture(folder / "blank.png").with_suffix(".txt").write_text(" \n")
    (folder / "zero.jpg").touch()
    (folder / "zero.txt").write_text("nothing")
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:600])
    (folder / "cut.txt").write_text("cut")
    whole = (folder / "film.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    picture(folder / "latin.png")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    (folder / "alone.txt").write_text("no picture")
    picture(folder / ".hidden" / "x.png")
    out = tmp_path / "out"
    done = run("make", folder, out)
    assert done.returncode == 0, done.stderr
    assert len(contents(out)) == 6
    left = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
    assert sorted((each["name"], each["reason"]) for each in left) == [
        ("alone.txt", "no_media"),
        ("blank.png", "no_caption"),
        ("cut.jpg", "truncated"),
        ("cut.mp4", "truncated"),
        ("latin.png", "caption_encoding"),
        ("notes.pdf", "unsupported"),
        ("silent.png", "no_caption"),
        ("zero.jpg", "empty"),
    ]
    for reason in {each["reason"] for each in left}:
        assert reason in done.stdout


@pytest.mark.parametrize(
    ("options", "caption"),
    [
        (["--caption", "a photo"], "a photo"),
        (["--caption-from", "filename"], "my red car"),
        (["--uncaptioned", "keep"], ""),
    ],
)
def test_ways_to_caption_the_uncaptioned(folder, tmp_path, options, caption):
    picture(folder / "my_red-car.png")
    assert run("make", folder, tmp_path / "out", *options).returncode == 0
    found = contents(tmp_path / "out")
    assert found["my_red-car.png"][1] == caption
    assert found["a.jpg"][1] == "picture 0, ünïcode [red]"


SCRIPTS = [
    "a café, naïve",
    "红色的汽车",
    "赤い車 🚗",
    "سيارة حمراء",
    "รถสีแดง",
    "e\u0301 combined",
    "line one\nline two",
]


def test_captions_in_any_script(tmp_path):
    folder = tmp_path / "photos"
    for n, text in enumerate(SCRIPTS):
        picture(folder / f"{text[:3].strip()}{n}.png", n).with_suffix(".txt").write_text(f"\ufeff {text}\r\n", "utf-8")
    picture(folder / "mute.png").with_suffix(".txt").touch()
    done = run("make", folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert sorted(caption for _, caption in contents(tmp_path / "out").values()) == sorted(SCRIPTS)
    assert "no_caption" in done.stdout and "mute.txt is empty" in done.stdout


def test_validation_part_goes_by_name(tmp_path):
    folder = tmp_path / "photos"
    for n in range(30):
        picture(folder / f"{n}.png", n).with_suffix(".txt").write_text(str(n))
    out = tmp_path / "out"
    assert run("make", folder, out, "--val-fraction", 0.3).returncode == 0
    train, val = contents(out), contents(out / "val")
    assert not set(train) & set(val)
    assert len(train) + len(val) == 30
    assert 2 <= len(val) <= 18
    assert read_manifest(out / "val").samples == len(val)
    more = tmp_path / "more"
    (folder / "0.png").unlink()
    assert run("make", folder, more, "--val-fraction", 0.3).returncode == 0
    assert set(contents(more / "val")) == set(val) - {"0.png"}


def test_out_inside_the_folder_is_not_its_own_input(folder):
    out = folder / "shards"
    assert run("make", folder, out).returncode == 0
    assert run("make", folder, out, "--resume").returncode == 0
    assert len(contents(out)) == 6


def test_index_and_verify_of_tars_made_elsewhere(folder, tmp_path):
    out = tmp_path / "out"
    assert run("make", folder, out, "--samples-per-shard", 3).returncode == 0
    for path in [*out.glob("*.parquet"), out / "manifest.json"]:
        path.unlink()
    missing = run("verify", out)
    assert missing.returncode == 1
    assert f"python tools/shards.py index {out / '00000.tar'}" in missing.stderr
    assert run("index", f"{out}/{{00000..00001}}.tar").returncode == 0
    assert read_manifest(out).samples == 6
    assert run("verify", out).returncode == 0
    row = read_index(out / "00000.tar").row(0)
    data = bytearray((out / "00000.tar").read_bytes())
    data[row.media_offset : row.media_offset + row.media_size] = bytes(row.media_size)
    (out / "00000.tar").write_bytes(data)
    changed = run("verify", out)
    assert changed.returncode == 1
    assert "00000.tar" in changed.stderr
    assert "changed" in changed.stderr
    (out / "00001.tar").write_bytes((out / "00001.tar").read_bytes()[:1000])
    cut = run("index", out)
    assert cut.returncode == 1
    assert "00001.tar: not a whole plain tar" in cut.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["make", "{none}", "{out}"], 1, "none: no such file or folder"),
        (["make", "{void}", "{out}"], 1, "void: no usable pictures or clips. Is this the right folder?"),
        (["make", "{mute}", "{out}"], 1, "add .txt captions, or use --caption TEXT"),
        (["make", "{rotten}", "{out}"], 1, "none of its 1 media files can be read"),
        (["make", "{good}", "{file}"], 1, "file"),
        (["make", "{good}", "{file}/below"], 1, "file"),
        (["make", "{good}", "{out}", "--samples-per-shard", "0"], 1, "--samples-per-shard 0: give 1 to 10000"),
        (["make", "{good}", "{out}", "--val-fraction", "1"], 1, "--val-fraction 1.0: give at least 0"),
        (["make", "{good}", "{out}", "--caption", "a", "--uncaptioned", "keep"], 2, "not allowed with"),
        (["make", "{good}"], 2, "OUT"),
        (["index", "{none}/*.tar"], 1, "no file matches"),
        (["index", "{good}"], 1, "python tools/shards.py make"),
        (["verify", "{void}"], 1, "no media"),
        (["turn"], 2, "invalid choice"),
    ],
)
def test_bad_input(tmp_path, arguments, code, message):
    places = {name: tmp_path / name for name in ("none", "void", "mute", "rotten", "good", "file", "out")}
    places["void"].mkdir()
    places["file"].touch()
    picture(places["mute"] / "a.png")
    picture(places["good"] / "a.png").with_suffix(".txt").write_text("fine")
    places["rotten"].mkdir()
    (places["rotten"] / "a.png").write_bytes(b"no picture")
    (places["rotten"] / "a.txt").write_text("rotten")
    before = list(tmp_path.rglob("*"))
    done = run(*[argument.format(**places) for argument in arguments])
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert set(before) <= set(tmp_path.rglob("*"))
    assert not list(tmp_path.rglob("*.tar"))


def test_help_explains():
    assert "a folder, list, parquet or tars of pictures and clips" in run("--help").stdout
    assert "contact_sheet.png" in run("make", "--help").stdout
