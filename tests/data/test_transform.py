import numpy as np
import pytest

from mmflow.data.transform import ASPECTS, buckets, nearest_bucket, resize_cover_crop


@pytest.mark.parametrize(("area", "multiple"), [(256 * 256, 16), (512 * 512, 64), (1024 * 1024, 64), (32 * 32, 4)])
def test_buckets_have_the_area_and_the_multiple(area, multiple):
    sizes = buckets(area, ASPECTS, multiple)
    assert len(set(sizes)) == len(sizes)
    assert (int(area**0.5), int(area**0.5)) in sizes
    for height, width in sizes:
        assert height % multiple == width % multiple == 0
        assert height * width == pytest.approx(area, rel=0.25)
    aspects = [width / height for height, width in sizes]
    assert aspects == sorted(aspects)


def test_buckets_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="at least 4096"):
        buckets(63 * 63, (1.0,), 64)
    with pytest.raises(ValueError, match="positive"):
        buckets(64 * 64, (0.0,), 16)
    with pytest.raises(ValueError, match="positive"):
        buckets(64 * 64, (), 16)


def test_nearest_bucket_goes_by_aspect():
    sizes = buckets(256 * 256, (0.5, 1.0, 2.0), 16)
    assert nearest_bucket(1000, 990, sizes) == (256, 256)
    tall, wide = nearest_bucket(4000, 2000, sizes), nearest_bucket(200, 400, sizes)
    assert tall == wide[::-1]
    assert tall[0] > tall[1]
    with pytest.raises(ValueError, match="no buckets"):
        nearest_bucket(1, 1, ())


def ramp(height, width):
    """Red grows with the row, green with the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)[None]


def test_the_same_size_gives_the_same_pixels():
    assert (resize_cover_crop(ramp(20, 30), (20, 30)) == ramp(20, 30)).all()


@pytest.mark.parametrize(("u", "left"), [(0.0, 0), (0.5, 50), (1.0, 100)])
def test_crop_moves_along_the_longer_side(u, left):
    cropped = resize_cover_crop(ramp(50, 150), (50, 50), (u, 0.3))
    assert (cropped[0, :, :, 1] == np.arange(left, left + 50)).all()
    turned = resize_cover_crop(ramp(150, 50), (50, 50), (0.3, u))
    assert (turned[0, :, :, 0] == np.arange(left, left + 50)[:, None]).all()


def test_covers_without_stretching_and_keeps_the_frames():
    frames = np.concatenate([ramp(90, 120)] * 3)
    small = resize_cover_crop(frames, (30, 30))
    assert small.shape == (3, 30, 30, 3)
    steps = np.diff(small[0, 15, :, 1].astype(int))
    assert 2 <= steps.min() <= steps.max() <= 4  # 3 source columns per pixel, as many as rows
    assert resize_cover_crop(ramp(7, 5), (64, 32)).shape == (1, 64, 32, 3)


def test_shrinking_is_antialiased():
    checkers = np.repeat(((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)[None, :, :, None], 3, -1)
    small = resize_cover_crop(checkers, (16, 16))
    assert np.abs(small.astype(int) - 127).max() < 20


@pytest.mark.parametrize("arguments", [((0, 8), (0.5, 0.5)), ((8, 8), (1.5, 0.5)), ((8, 8), (0.5, -0.1))])
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match="positive size"):
        resize_cover_crop(ramp(8, 8), *arguments)
