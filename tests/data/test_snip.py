"""Parts of films: exact starts and ends whatever the container, upright, with even sides."""

from pathlib import Path

import numpy as np
import pytest
from media import coded_clip, codes, sound_only, uneven_clip

from mmflow.data.decode import UnreadableSample, decode_clip, read_header
from mmflow.data.snip import snip


def reason(path: Path, start: float, end: float) -> str:
    with pytest.raises(UnreadableSample) as raised:
        snip(path, start, end)
    return raised.value.reason


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi"])
def test_a_part_is_what_the_film_shows_then(tmp_path: Path, suffix: str) -> None:
    """24 frames at 10 per second, one keyframe: copying packets could only begin at 0."""
    film = tmp_path / f"film.{suffix}"
    coded_clip(film, frames=24)
    for start, end, shown in [(0, 1, range(10)), (1.1, 2, range(11, 20)), (0.3, 0.4, [3]), (2.2, 2.4, [22, 23])]:
        part = snip(film, start, end)
        header = read_header(part, "mp4")
        assert header.duration == pytest.approx(end - start, abs=1e-3)
        assert codes(decode_clip(part, len(shown), 10, 0.0)) == list(shown)


def test_between_two_frames_the_earlier_one_is_on_screen(tmp_path: Path) -> None:
    coded_clip(tmp_path / "film.mp4", frames=24)
    part = snip(tmp_path / "film.mp4", 0.35, 0.65)
    assert read_header(part, "mp4").duration == pytest.approx(0.3, abs=1e-3)
    assert codes(decode_clip(part, 6, 20, 0.0)) == [3, 4, 4, 5, 5, 6]


def test_uneven_frames_keep_their_times(tmp_path: Path) -> None:
    uneven_clip(tmp_path / "film.mp4", [0, 100, 150, 600, 700, 1300])
    part = snip(tmp_path / "film.mp4", 0.12, 0.65)
    assert read_header(part, "mp4").duration == pytest.approx(0.53, abs=1e-3)
    assert codes(decode_clip(part, 3, 5, 0.0)) == [1, 2, 2] and codes(decode_clip(part, 2, 2.02, 0.0)) == [1, 3]


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_film_is_upright(tmp_path: Path, rotation: int) -> None:
    whole = coded_clip(tmp_path / "film.mp4", frames=5, rotation=rotation)
    part = snip(tmp_path / "film.mp4", 0, 0.5)
    frames = [decode_clip(data, 5, 10, 0.0).astype(int) for data in (whole, part)]
    assert frames[0].shape == frames[1].shape and np.abs(frames[0] - frames[1]).max() <= 8


def test_odd_sides_lose_a_row_and_a_column(tmp_path: Path) -> None:
    coded_clip(tmp_path / "film.avi", frames=5, size=(33, 47))
    header = read_header(snip(tmp_path / "film.avi", 0, 0.5), "mp4")
    assert (header.height, header.width) == (32, 46)


def test_parts_that_are_not_there(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    coded_clip(film, frames=24)
    assert read_header(snip(film, 2, 2.8), "mp4").duration == pytest.approx(0.4, abs=1e-3)  # lists round
    for start, end in [(2, 3), (2.4, 2.6), (7, 8), (1, 1), (2, 1), (-1, 1), (float("nan"), 1), (0, float("inf"))]:
        assert reason(film, start, end) == "bad_span"
    assert reason(tmp_path / "gone.mp4", 0, 1) == "missing"
    sound_only(tmp_path / "sound.mp4")
    assert reason(tmp_path / "sound.mp4", 0, 1) == "no_video"
    (tmp_path / "zeros.mp4").write_bytes(bytes(1000))
    assert reason(tmp_path / "zeros.mp4", 0, 1) == "corrupt"
    film.write_bytes(film.read_bytes()[:2000])
    assert reason(film, 1, 2) in ("corrupt", "bad_span")
