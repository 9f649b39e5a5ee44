import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from mmflow.export import CAPTION_LINES, caption_grid, to_uint8, wrap, write_media, write_mp4, write_png


def read_mp4(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        about = (stream.codec_context.name, stream.codec_context.pix_fmt, float(stream.average_rate))
        return about, np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def colours(frames, height, width):
    """Flat frames of different colours."""
    values = np.random.default_rng(0).integers(0, 255, (frames, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(values, (frames, height, width, 3)).copy()


def test_to_uint8_rounds_clamps_and_reorders():
    pixels = torch.tensor([-2.0, -1.0, 0.0, 1.0, 3.0, float("nan")]).expand(3, 2, 4, 6).clone()
    pixels[1] = -1
    frames = to_uint8(pixels)
    assert (frames.shape, frames.dtype) == ((2, 4, 6, 3), np.uint8)
    assert frames[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 0]
    assert (frames[..., 1] == 0).all()


def test_to_uint8_undoes_the_conversion_to_pixels():
    levels = torch.arange(256).expand(3, 1, 1, 256)
    for dtype in (torch.float32, torch.float64):
        assert to_uint8((levels.to(dtype) / 127.5) - 1)[0, 0, :, 0].tolist() == list(range(256))


def test_png_is_exact(tmp_path):
    frame = np.random.default_rng(0).integers(0, 255, (7, 5, 3), dtype=np.uint8)
    path = write_png(tmp_path / "new" / "a.png", frame)
    assert (np.asarray(Image.open(path)) == frame).all()
    assert [each.name for each in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (8, 8), (2, 2), (1, 1), (64, 128)])
def test_mp4_plays_in_a_browser(tmp_path, height, width):
    frames = colours(6, height, width)
    path = write_mp4(tmp_path / "a.mp4", frames, 8)
    about, read = read_mp4(path)
    assert about == ("h264", "yuv420p", 8.0)
    assert read.shape == (6, height + height % 2, width + width % 2, 3)
    assert np.abs(read[:, :height, :width].astype(int) - frames).max() <= 8
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")  # the index in front: playing starts at once
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


def test_mp4_of_broken_frame_rates(tmp_path):
    about, read = read_mp4(write_mp4(tmp_path / "a.mp4", colours(5, 16, 16), 30000 / 1001))
    assert about[2] == pytest.approx(30000 / 1001, rel=1e-4)
    assert len(read) == 5


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_mp4(tmp_path / "a.mp4", colours(3, 16, 16), 8)
    before = path.read_bytes()
    monkeypatch.setattr(av.VideoFrame, "from_ndarray", lambda *args, **kwargs: 1 / 0, raising=False)
    try:
        with pytest.raises(ZeroDivisionError):
            write_mp4(path, colours(3, 16, 16), 8)
    except TypeError:
        pytest.skip("this PyAV does not let its methods be replaced")
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(("frames", "fps"), [(0, 8.0), (3, 0.0), (3, -1.0)])
def test_mp4_refuses_nothing_to_play(tmp_path, frames, fps):
    with pytest.raises(ValueError, match=r"a\.mp4: need at least one frame"):
        write_mp4(tmp_path / "a.mp4", np.zeros((frames, 8, 8, 3), np.uint8), fps)


def test_one_frame_is_a_png_and_several_an_mp4(tmp_path):
    assert write_media(tmp_path / "00000.v1", colours(1, 8, 8), 8) == tmp_path / "00000.v1.png"
    assert write_media(str(tmp_path / "00001"), colours(2, 8, 8), 8) == tmp_path / "00001.mp4"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["00000.v1.png", "00001.mp4"]


def test_grid_enlarges_by_whole_pixels_and_writes_captions():
    picture = colours(1, 32, 32)
    plain = np.asarray(caption_grid([(picture, "")]))
    assert (plain[6:134, 6:134] == picture[0, 0, 0]).all()
    captioned = np.asarray(caption_grid([(picture, "a red circle")]))
    assert captioned.shape[0] > plain.shape[0]
    assert (captioned[134:] < 128).any()


def test_grid_shows_a_clip_as_a_strip_from_first_to_last():
    clip = colours(16, 32, 32)
    sheet = np.asarray(caption_grid([(clip, "a clip")], columns=4, scale=1))
    shown = [sheet[10, 10 + tile * (32 + 6)].tolist() for tile in range(4)]
    assert shown == [clip[n, 0, 0].tolist() for n in (0, 5, 10, 15)]


def test_grid_breaks_rows_at_its_columns():
    items = [(colours(1, 16, 16), "x"), (colours(8, 16, 16), "y"), (colours(1, 16, 16), "z")]
    narrow, wide = caption_grid(items, columns=4, scale=2), caption_grid(items, columns=6, scale=2)
    assert wide.width > narrow.width
    assert wide.height < narrow.height
    assert caption_grid([(colours(9, 16, 16), "")], columns=1, scale=1).width == 16 + 12


def test_grid_refuses_nothing():
    for items, columns, scale in [([], 4, 1), ([(colours(1, 4, 4), "")], 0, 1), ([(colours(1, 4, 4), "")], 1, 0)]:
        with pytest.raises(ValueError, match="a grid needs items"):
            caption_grid(items, columns, scale)


@pytest.mark.parametrize(
    "text", ["a cat on a mat beside a very small dog", "x" * 70, "", "一只红色的猫坐在垫子上看着窗外"]
)
def test_wrap_keeps_the_words_within_the_width(text):
    font = ImageFont.load_default(13)
    lines = wrap(text, font, 120)
    assert all(font.getlength(line) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_wrap_cuts_a_novel():
    lines = wrap("word " * 200, ImageFont.load_default(13), 120)
    assert len(lines) == CAPTION_LINES
    assert lines[-1].endswith("...")
