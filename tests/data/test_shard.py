import io
import json
import tarfile

import fsspec
import numpy as np
import pytest
import webdataset
from media import coded_clip, gradient, picture_bytes

from mmflow.data.decode import UnreadableSample, decode_clip, decode_picture
from mmflow.data.index import build_index, read_index
from mmflow.data.shard import ShardSample, expand_shards, read_sample, sample_key, write_shard


def samples(tmp_path):
    return [
        ShardSample("000000000", "jpg", picture_bytes(gradient(), "JPEG"), "a gradient", {"source": "a/b.jpg"}),
        ShardSample("000000001", "mp4", coded_clip(tmp_path / "c.mp4"), "ein Film, 映画, فيلم"),
        ShardSample("000000002", "png", picture_bytes(gradient(20, 20)), None),
    ]


def test_what_was_written_is_read(tmp_path):
    written = samples(tmp_path)
    assert write_shard(tmp_path / "00000.tar", written) == 3
    index = build_index(tmp_path / "00000.tar")
    for sample, row in zip(written, index.rows(), strict=True):
        assert row.key == sample.key
        assert read_sample(index.tar, row) == (sample.media, sample.caption or "")
    picture, clip, _ = (read_sample(index.tar, row)[0] for row in index.rows())
    assert decode_picture(picture).shape == (1, 30, 40, 3)
    assert decode_clip(clip, 4, 5, 0.0).shape == (4, 48, 64, 3)


def test_equal_samples_give_equal_bytes(tmp_path):
    written = samples(tmp_path)
    for name in ("one.tar", "two.tar"):
        write_shard(tmp_path / name, written)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in tar} == {(0, 0, 0, "")}


def test_webdataset_reads_our_shards(tmp_path):
    written = samples(tmp_path)
    write_shard(tmp_path / "00000.tar", written)
    read = list(webdataset.WebDataset(str(tmp_path / "00000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in read] == [sample.key for sample in written]
    assert read[0]["jpg"] == written[0].media
    assert read[1]["txt"].decode() == written[1].caption
    assert json.loads(read[0]["json"]) == written[0].meta


def test_a_broken_write_leaves_nothing(tmp_path):
    def breaking():
        yield ShardSample("000000000", "png", b"1", "one")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        write_shard(tmp_path / "00000.tar", breaking())
    assert write_shard(tmp_path / "00001.tar", []) == 0
    assert list(tmp_path.iterdir()) == []


def test_keys_number_shard_and_place():
    assert sample_key(12, 345) == "000120345"
    for shard, place in [(0, 10_000), (100_000, 0), (-1, 0)]:
        with pytest.raises(ValueError, match="keys number shards to 99999"):
            sample_key(shard, place)


def test_shards_behind_a_url(tmp_path):
    written = samples(tmp_path)
    write_shard(tmp_path / "00000.tar", written)
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/00000.tar", (tmp_path / "00000.tar").read_bytes())
    build_index("memory://bucket/00000.tar")
    (url,) = expand_shards("memory://bucket")
    assert expand_shards("memory://bucket/*.tar") == [url]
    index = read_index(url)
    assert read_sample(url, index.row(1)) == (written[1].media, written[1].caption)
    files.pipe_file("/bucket/00000.tar", b"short")
    with pytest.raises(ValueError, match="changed since it was indexed"):
        read_index(url)


def test_a_tar_that_goes_away_or_shrinks_makes_unreadable_samples(tmp_path):
    tar = tmp_path / "00000.tar"
    write_shard(tar, samples(tmp_path))
    row = build_index(tar).row(1)
    tar.write_bytes(tar.read_bytes()[: row.media_offset + 100])
    with pytest.raises(UnreadableSample, match=r"truncated: .*00000\.tar ends"):
        read_sample(str(tar), row)
    tar.unlink()
    with pytest.raises(UnreadableSample, match="missing"):
        read_sample(str(tar), row)


def test_a_caption_far_from_its_picture_is_read_by_itself(tmp_path):
    tar = tmp_path / "00000.tar"
    far = np.random.default_rng(0).integers(0, 255, 200_000, dtype=np.uint8).tobytes()
    with tarfile.open(tar, "w") as out:
        for name, data in [("a.png", picture_bytes(gradient())), ("b.bin", far), ("a.txt", b"far away")]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    assert read_sample(str(tar), build_index(tar).row(0)) == (picture_bytes(gradient()), "far away")


def test_expand_folder_glob_braces_and_lists(tmp_path):
    for name in ["00000.tar", "00001.tar", "00010.tar", "val/00000.tar"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    root = str(tmp_path)
    three = [f"{root}/{name}.tar" for name in ("00000", "00001", "00010")]
    assert expand_shards(root) == three
    assert expand_shards(root + "/*.tar") == three
    assert expand_shards(root + "/{00000..00001}.tar") == three[:2]
    assert expand_shards(root + "/{00010,00000}.tar") == [three[2], three[0]]
    assert expand_shards([root, root + "/val"]) == [*three, f"{root}/val/00000.tar"]
    assert expand_shards("s3://bucket/{00000..00002}.tar") == [f"s3://bucket/0000{n}.tar" for n in range(3)]


def test_a_relative_pattern_stays_relative(tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "00000.tar").touch()
    monkeypatch.chdir(tmp_path)
    for pattern in ("shards", "shards/*.tar", "shards/{00000..00000}.tar"):
        assert expand_shards(pattern) == ["shards/00000.tar"]


def test_patterns_that_match_nothing_say_so(tmp_path):
    (tmp_path / "00000.tar").touch()
    root = str(tmp_path)
    for pattern in (f"{root}/nothing", f"{root}/*.tgz", f"{root}/{{00000..00003}}.tar", f"{root}/00007.tar"):
        with pytest.raises(ValueError) as caught:
            expand_shards(pattern)
        assert repr(pattern) in str(caught.value)
    with pytest.raises(ValueError, match=r"no such file: .*00001\.tar"):
        expand_shards(f"{root}/{{00000..00003}}.tar")
    with pytest.raises(ValueError, match="named twice"):
        expand_shards([root, f"{root}/00000.tar"])
    with pytest.raises(ValueError, match="empty"):
        expand_shards([])


def test_a_media_folder_gets_the_line_to_paste(tmp_path):
    photos = tmp_path / "photos"
    (photos / "2024").mkdir(parents=True)
    with pytest.raises(ValueError, match="no media"):
        expand_shards(str(photos))
    (photos / "2024" / "cat.JPG").touch()
    with pytest.raises(ValueError) as caught:
        expand_shards(str(photos))
    assert f"python tools/shards.py make {photos} photos-shards" in str(caught.value)
