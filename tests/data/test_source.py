"""Sources: an order that is a pure function of the seed, and samples that are what the index says."""

from pathlib import Path

import numpy as np
import pytest
from media import coded_clip, codes, make_shards

from mmflow import draws
from mmflow.data.decode import UnreadableSample
from mmflow.data.index import build_index, read_index
from mmflow.data.places import choose_places, held_out
from mmflow.data.shard import ShardSample, write_shard
from mmflow.data.source import Framing, ShapesSource, ShardSource
from mmflow.shapes.world import World

WORLD = World(size=32, frames=4)
FRAMING = Framing(sizes=((16, 32), (16, 16), (32, 16)), frames=4, fps=5.0, random=True)
STILL = Framing(sizes=FRAMING.sizes, frames=4, fps=5.0, random=False)


@pytest.mark.parametrize("medium", ["picture", "clip"])
def test_the_shapes_world_is_drawn_by_number(medium) -> None:
    source = ShapesSource(WORLD, "train", medium, seed=2)
    item = source.locate(0, 123, 456)
    assert (item.row, item.visit, item.position, item.key) == (123, 0, 456, ("shapes", f"train/{medium}", "123"))
    sample, drawn = source.read(item), getattr(WORLD, medium)(2, "train", 123)
    assert sample.frames.shape[:3] == item.shape == (1 if medium == "picture" else 4, 32, 32)
    assert (sample.frames == drawn.frames).all() and sample.caption == source.caption(item) == drawn.caption
    assert source.size is None


def test_one_percent_is_held_out_and_stays_so() -> None:
    held = [n for n in range(50_000) if held_out(("shards", "00000", f"{n:09d}"))]
    assert len(held) / 50_000 == pytest.approx(0.01, abs=0.0015)
    assert held[:5] == [81, 119, 147, 258, 289], "another choice would validate on what older runs were trained on"
    assert held_out(("a",), percent=100) and not held_out(("a",), percent=0)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), pictures=[6, 0, 5], clips=[2, 1, 0])


def open_source(shards: Path, medium, part="all", framing=FRAMING, seed=0) -> ShardSource:
    tars = tuple(sorted(map(str, shards.glob("*.tar"))))
    return ShardSource("shards", medium, choose_places("shards", tars, part)[medium], framing, seed)


def first_pass(source: ShardSource) -> list:
    return [source.locate(1, nth, 100 + nth) for nth in range(source.size)]


@pytest.mark.parametrize(("medium", "size"), [("picture", 11), ("clip", 3)])
def test_a_source_has_the_samples_of_its_medium(shards: Path, medium, size: int) -> None:
    source = open_source(shards, medium)
    extension = {"picture": "png", "clip": "mp4"}[medium]
    items = first_pass(source)
    assert len({item.key for item in items}) == len({item.row for item in items}) == source.size == size
    for item in items:
        name, shard, member = item.key
        sample = source.read(item)
        assert name == "shards" and (item.source, item.visit) == (1, 0)
        assert sample.caption == source.caption(item) == f"{extension} {int(member[5:])} of shard {int(shard)}"
        assert sample.frames.shape == (*item.shape, 3) and (sample.key, sample.visit) == (item.key, 0)
    assert source.locate(1, size, 0).visit == 1


def test_pictures_go_to_the_bucket_of_their_aspect(shards: Path) -> None:
    source = open_source(shards, "picture")
    for item in first_pass(source):
        wide = int(item.key[2]) % 2 == 0  # 20 x 40; the others are 50 x 40
        assert item.shape == ((1, 16, 32) if wide else (1, 16, 16))


def test_the_held_out_part_and_the_rest_are_the_whole(shards: Path) -> None:
    sources = [open_source(shards, "picture", part) for part in ("all", "train", "held_out")]
    whole, train, held = ({item.key for item in first_pass(source)} for source in sources)
    assert train | held == whole and not train & held and all(map(held_out, held)) and not any(map(held_out, train))


def test_crops_and_first_frames_are_drawn_anew_at_each_visit(shards: Path) -> None:
    picture = open_source(shards, "picture")
    wide = next(item for item in first_pass(picture) if item.shape == (1, 16, 16))
    nth = next(nth for nth in range(11, 22) if picture.locate(1, nth, 0).key == wide.key)
    again = picture.locate(1, nth, 0)
    assert again.visit == 1 and not (picture.read(wide).frames == picture.read(again).frames).all()
    assert (picture.read(again).frames == open_source(shards, "picture").read(again).frames).all()
    assert not (open_source(shards, "picture", seed=1).read(wide).frames == picture.read(wide).frames).all()
    still = open_source(shards, "picture", framing=STILL)
    assert (still.read(wide).frames == still.read(again).frames).all()


def test_frames_of_a_clip_are_picked_by_time_from_the_drawn_start(shards: Path) -> None:
    """A clip of 20 frames at 10 per second; 4 frames at 5 per second span 0.6 s and leave 1.4 s for the start."""
    source, starts = open_source(shards, "clip"), set()
    for nth in range(9):
        item = source.locate(0, nth, 0)
        shown = codes(source.read(item).frames)
        first = float(draws.uniform(0, "start_frame", item.key, item.visit)) * 1.4 * 10
        assert shown[0] == pytest.approx(first, abs=1.02) and np.diff(shown).tolist() == [2, 2, 2]
        starts.add(shown[0])
    assert len(starts) > 3
    still = open_source(shards, "clip", framing=STILL)
    assert [codes(still.read(item).frames) for item in first_pass(still)] == [[7, 9, 11, 13]] * 3


def test_a_bad_file_is_an_unreadable_sample(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", pictures=[2], clips=[0])
    source = open_source(shards, "picture")
    tar = shards / "00000.tar"
    row = next(read_index(tar).rows())
    data = bytearray(tar.read_bytes())
    data[row.media_offset : row.media_offset + row.media_size] = bytes(row.media_size)
    tar.write_bytes(data)
    bad, good = sorted(first_pass(source), key=lambda item: item.key)
    with pytest.raises(UnreadableSample) as raised:
        source.read(bad)
    assert raised.value.reason == "corrupt" and source.read(good).frames.shape == (*good.shape, 3)
    tar.unlink()
    with pytest.raises(UnreadableSample) as raised:
        source.read(good)
    assert raised.value.reason == "missing"


def test_a_clip_takes_the_most_frames_that_its_duration_holds(tmp_path: Path) -> None:
    """At 5 a second, 4, 8 and 16 frames span 0.6, 1.4 and 3 seconds; clips of 20 and 9 frames at 10 last 2 and 0.9."""
    framing = Framing(sizes=((16, 16),), frames=16, fps=5.0, random=True, lengths=(4, 8, 16))
    assert framing.frames_for(np.array([0.0, 0.6, 0.602, 1.4, 1.402, 3.1, 99.0])) == [4, 4, 4, 4, 8, 16, 16]
    media = [coded_clip(tmp_path / "long.mp4"), coded_clip(tmp_path / "short.mp4", frames=9)]
    samples = [ShardSample(f"{n:09d}", "mp4", data, f"clip {n}") for n, data in enumerate(media)]
    write_shard(tmp_path / "00000.tar", samples)
    build_index(tmp_path / "00000.tar")
    places = choose_places("s", (str(tmp_path / "00000.tar"),), "all")["clip"]
    source = ShardSource("s", "clip", places, framing, seed=0)
    items = {item.key[-1]: item for item in (source.locate(0, nth, nth) for nth in range(2))}
    assert {key: item.shape[0] for key, item in items.items()} == {"000000000": 8, "000000001": 4}
    assert {key: source.read(item).frames.shape[0] for key, item in items.items()} == {"000000000": 8, "000000001": 4}
