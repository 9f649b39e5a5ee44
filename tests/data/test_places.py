"""What a source has, told by manifests as by indexes, and what is noticed when they are not of the tars."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from media import make_shards

from mmflow.data import places as places_module
from mmflow.data.index import build_index
from mmflow.data.manifest import write_manifest
from mmflow.data.places import MEDIA, choose_places
from mmflow.data.shard import read_sample
from mmflow.data.source import Framing, ShardSource

FRAMING = Framing(sizes=((16, 16),), frames=4, fps=5.0, random=True)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = make_shards(tmp_path / "shards", pictures=[3, 0, 2], clips=[1, 1, 0])
    write_manifest(folder)
    return folder


def tars(shards: Path) -> tuple[str, ...]:
    return tuple(sorted(map(str, shards.glob("*.tar"))))


def opened(shards: Path, monkeypatch) -> tuple[dict, list[str]]:
    """Places, and the tars whose index was read for them."""
    read: list[str] = []
    real = places_module.read_index
    monkeypatch.setattr(places_module, "read_index", lambda tar: (read.append(Path(tar).name), real(tar))[1])
    return choose_places("shards", tars(shards), "all"), read


def test_a_manifest_says_what_the_indexes_say(shards: Path, monkeypatch) -> None:
    told, read = opened(shards, monkeypatch)
    assert read == [] and told["picture"].listed == {0, 1, 2}
    (shards / "manifest.json").unlink()
    asked, read = opened(shards, monkeypatch)
    assert read == ["00000.tar", "00001.tar", "00002.tar"]
    for medium, counts in zip(MEDIA, ([3, 0, 2], [1, 1, 0]), strict=True):
        assert told[medium].counts.tolist() == asked[medium].counts.tolist() == counts
        assert (told[medium].digests, told[medium].uncaptioned) == (asked[medium].digests, asked[medium].uncaptioned)
        sources = [ShardSource("shards", medium, each[medium], FRAMING, 0) for each in (told, asked)]
        first, second = ([source.locate(0, n, n) for n in range(2 * sum(counts))] for source in sources)
        assert first == second


def test_a_newer_index_knows_better_than_the_manifest(shards: Path, monkeypatch) -> None:
    os.utime(shards / "manifest.json", ns=(1, 1))
    assert opened(shards, monkeypatch)[1] == ["00000.tar", "00001.tar", "00002.tar"]


def test_a_tar_that_changed_after_the_manifest_is_noticed_before_it_is_read(shards: Path) -> None:
    source = ShardSource("shards", "picture", choose_places("shards", tars(shards), "all")["picture"], FRAMING, 0)
    tar = shards / "00002.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 255
    tar.write_bytes(data)
    with pytest.raises(ValueError, match=r"00002\.tar: changed since it was indexed"):
        source.locate(0, 0, 0)


def test_a_manifest_of_other_tars_is_refused(shards: Path) -> None:
    source = ShardSource("shards", "picture", choose_places("shards", tars(shards), "all")["picture"], FRAMING, 0)
    make_shards(shards.parent / "other", pictures=[3, 0, 4], clips=[1, 1, 0])
    for name in ("00002.tar", "00002.index.parquet"):
        os.replace(shards.parent / "other" / name, shards / name)
    with pytest.raises(ValueError, match=r"00002\.tar: its index is of other bytes .*tools/shards.py index"):
        source.locate(0, 0, 0)


def test_two_samples_with_one_key_stay_two_when_shards_differ(tmp_path: Path) -> None:
    """img2dataset numbers keys anew in each download, so two folders have the same ones."""
    for name in ("a", "b"):
        make_shards(tmp_path / name, pictures=[2], clips=[0])
    both = (str(tmp_path / "a" / "00000.tar"), str(tmp_path / "b" / "00000.tar"))
    source = ShardSource("shards", "picture", choose_places("shards", both, "all")["picture"], FRAMING, 0)
    items = [source.locate(0, n, n) for n in range(4)]
    assert Counter(item.key[2] for item in items) == {"000000000": 2, "000000001": 2}
    assert len({item.key for item in items}) == 4


def test_an_item_knows_the_length_of_its_caption(shards: Path) -> None:
    source = ShardSource("shards", "clip", choose_places("shards", tars(shards), "all")["clip"], FRAMING, 0)
    for n in range(2):
        item = source.locate(0, n, n)
        assert item.characters == len(read_sample(*source._find(item.row))[1]) > 0


def test_a_remote_folder_has_a_manifest_too(shards: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    for tar in tars(shards)[:2]:
        files.pipe_file(f"/places/{Path(tar).name}", Path(tar).read_bytes())
        build_index(f"memory://places/{Path(tar).name}")
    written = write_manifest("memory://places")
    assert [shard.name for shard in written.shards] == ["00000.tar", "00001.tar"]
    there = tuple(f"memory://places/0000{n}.tar" for n in range(2))
    found = choose_places("shards", there, "all")
    assert found["picture"].listed == {0, 1} and np.array_equal(found["picture"].counts, [3, 0])
    files.rm("/places", recursive=True)
