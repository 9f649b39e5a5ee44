import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from media import coded_clip, gradient, picture_bytes

from mmflow.data.index import build_index, read_index, tar_digest
from mmflow.data.manifest import read_manifest, summarize, write_manifest
from mmflow.data.shard import ShardSample, write_shard


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shard(tmp_path):
    clip = coded_clip(tmp_path / "c.mp4")
    written = [
        ShardSample("000000000", "jpg", picture_bytes(gradient(30, 40), "JPEG"), "a gradient"),
        ShardSample("000000001", "mp4", clip, "ein grauer Übergang"),
        ShardSample("000000002", "png", picture_bytes(gradient(64, 20)), None),
    ]
    write_shard(tmp_path / "00000.tar", written)
    return tmp_path / "00000.tar"


def test_rows_say_what_the_samples_are(shard):
    built, read = build_index(shard), read_index(shard)
    assert list(built.rows()) == list(read.rows())
    assert (built.state, built.skipped) == (read.state, read.skipped)
    picture, clip, plain = read.rows()
    assert (picture.kind, picture.frames, picture.height, picture.width) == ("picture", 1, 30, 40)
    assert (clip.kind, clip.frames, clip.height, clip.width) == ("clip", 20, 48, 64)
    assert (clip.fps, clip.duration) == (pytest.approx(10), pytest.approx(2))
    assert (clip.extension, clip.caption_length) == ("mp4", len("ein grauer Übergang"))
    assert (plain.caption_size, plain.caption_length) == (0, 0)
    assert read.column("height").tolist() == [30, 48, 64]
    assert (read.places("clip").tolist(), read.places("picture").tolist()) == ([1], [0, 2])
    assert read.row(2) == plain
    with tarfile.open(shard) as tar:
        media = tar.getmember("000000001.mp4")
    assert (clip.media_offset, clip.media_size) == (media.offset_data, media.size)


def test_a_changed_tar_is_noticed(shard):
    build_index(shard)
    with shard.open("ab") as stream:
        stream.write(b"\0" * 512)
    with pytest.raises(ValueError, match=r"00000\.tar: changed since .* python tools/shards.py index .*00000\.tar"):
        read_index(shard)
    build_index(shard)
    read_index(shard)


def test_a_change_of_equal_size_is_noticed_by_its_time(shard):
    build_index(shard)
    data = bytearray(shard.read_bytes())
    data[600] ^= 255
    shard.write_bytes(data)
    os.utime(shard, ns=(1, 1))
    with pytest.raises(ValueError, match="changed since"):
        read_index(shard)


def test_a_copy_is_the_same_tar(shard, tmp_path):
    build_index(shard)
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    for path in (shard, shard.with_name("00000.index.parquet")):
        shutil.copyfile(path, elsewhere / path.name)
    assert len(read_index(elsewhere / shard.name)) == 3
    assert tar_digest(elsewhere / shard.name) == read_index(shard).state.digest


def test_an_unchanged_tar_is_not_opened(shard, monkeypatch):
    build_index(shard)
    opened = []
    real = io.open

    def spy(file, *args, **kwargs):
        opened.append(str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", spy)
    read_index(shard)
    assert not [name for name in opened if name.endswith(".tar")]
    assert [name for name in opened if name.endswith(".parquet")]


def test_missing_and_damaged_indices_name_the_way_out(shard):
    with pytest.raises(ValueError, match=r"no index beside it .* python tools/shards.py index"):
        read_index(shard)
    build_index(shard)
    index = shard.with_name("00000.index.parquet")
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged index"):
        read_index(shard)
    build_index(shard)
    shard.unlink()
    with pytest.raises(ValueError, match="the tar is not"):
        read_index(shard)


def test_what_cannot_be_read_is_left_out_by_reason(tmp_path):
    good = picture_bytes(gradient())
    members = [
        ("./dir/one.PNG", good),
        ("dir/one.txt", b"\xef\xbb\xbfwith a mark\n"),
        ("dir/one.latent.npy", b"a feature"),
        ("two.jpg", b"no picture"),
        ("three.png", b""),
        ("four.png", good),
        ("four.txt", b"\xff\xfe not utf-8"),
        ("five.png", good),
        ("five.jpg", picture_bytes(gradient(), "JPEG")),
        ("six.txt", b"alone"),
        ("../evil.png", good),
        ("/etc/evil.png", good),
        ("a/../../evil.png", good),
    ]
    index = build_index(write_tar(tmp_path / "odd.tar", members))
    assert [(row.key, row.extension, row.caption_length) for row in index.rows()] == [
        ("dir/one", "png", len("with a mark")),
        ("five", "png", 0),
    ]
    assert {(each.name, each.reason) for each in index.skipped} == {
        ("two.jpg", "corrupt"),
        ("three.png", "empty"),
        ("four.png", "caption_encoding"),
        ("five.jpg", "duplicate"),
        ("six", "no_media"),
        ("../evil.png", "unsafe_name"),
        ("/etc/evil.png", "unsafe_name"),
        ("a/../../evil.png", "unsafe_name"),
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd.index.parquet", "odd.tar"]
    assert not list(tmp_path.parent.glob("evil*"))


def test_links_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        info = tarfile.TarInfo("real.png")
        info.size = len(data := picture_bytes(gradient()))
        tar.addfile(info, io.BytesIO(data))
    index = build_index(tmp_path / "links.tar")
    assert [row.key for row in index.rows()] == ["real"]
    assert [each.reason for each in index.skipped] == ["not_a_file"]


def test_tars_that_are_none(tmp_path, shard):
    (tmp_path / "zero.tar").touch()
    (tmp_path / "cut.tar").write_bytes(shard.read_bytes()[:2000])
    write_tar(tmp_path / "void.tar", [])
    write_tar(tmp_path / "bad.tar", [("a.png", b"no")])
    for name, message in [
        ("zero.tar", "not a whole plain tar"),
        ("cut.tar", "not a whole plain tar"),
        ("void.tar", "no media files"),
        ("bad.tar", "corrupt"),
        ("none.tar", "no such tar"),
    ]:
        with pytest.raises(ValueError, match=rf"{name}.*{message}"):
            build_index(tmp_path / name)
        assert not (tmp_path / name.replace(".tar", ".index.parquet")).exists()
    with pytest.raises(ValueError, match=r"plain \.tar"):
        build_index(tmp_path / "packed.tar.gz")


def test_manifest_counts_the_folder(shard):
    index = build_index(shard)
    manifest = write_manifest(shard.parent)
    assert read_manifest(shard.parent) == manifest
    assert manifest.shards == (summarize(index),)
    assert (manifest.samples, manifest.pictures, manifest.clips) == (3, 2, 1)
    assert manifest.shards[0].uncaptioned == 1
    (shard.parent / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest.json: damaged"):
        read_manifest(shard.parent)
    (shard.parent / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no such file"):
        read_manifest(shard.parent)
