import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from media import STEP, coded_clip, codes, gradient, picture_bytes, sound_only, uneven_clip
from PIL import Image, ImageCms

from mmflow.data.decode import UnreadableSample, check_media, decode_clip, decode_picture, pick_frames, read_header


def close(frames, image, tolerance=0):
    assert frames.shape == (1, image.height, image.width, 3)
    assert frames.dtype == np.uint8
    assert np.abs(frames[0].astype(int) - np.asarray(image.convert("RGB"))).max() <= tolerance


def reason(call, *args):
    with pytest.raises(UnreadableSample) as caught:
        call(*args)
    assert caught.value.detail
    return caught.value.reason


# pictures


def test_picture_is_one_frame_with_its_very_pixels():
    close(decode_picture(picture_bytes(gradient())), gradient())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = gradient()
    turned_back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turned_back[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = picture_bytes(stored, exif=exif)
    close(decode_picture(data), upright)
    header = read_header(data, "png")
    assert (header.height, header.width) == (upright.height, upright.width)


def test_transparency_lies_over_the_background():
    image = gradient().convert("RGBA")
    image.putalpha(0)
    assert (decode_picture(picture_bytes(image)) == 255).all()
    assert (decode_picture(picture_bytes(image), background=(1, 2, 3)) == (1, 2, 3)).all()
    image.putalpha(128)
    half = decode_picture(picture_bytes(image))[0].astype(int)
    assert np.abs(half - (np.asarray(gradient()) * (128 / 255) + 127)).max() <= 2


def test_palette_with_transparent_colour():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    frame = decode_picture(picture_bytes(image, transparency=0))[0]
    assert frame[0, 0].tolist() == [200, 100, 50]
    assert frame[1, 1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P"])
def test_grey_and_palette_modes(mode):
    image = gradient().convert("L").convert(mode)
    frames = decode_picture(picture_bytes(image))
    assert frames.shape == (1, 30, 40, 3)
    if mode != "P":
        assert (frames == frames[..., :1]).all()


def test_sixteen_bit_grey_keeps_its_range():
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    frame = decode_picture(picture_bytes(Image.fromarray(ramp)))[0]
    assert np.abs(frame[..., 0].reshape(-1).astype(int) - np.arange(256)).max() <= 1


def test_cmyk_jpeg_and_float_tiff():
    cmyk = decode_picture(picture_bytes(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert cmyk.shape == (1, 16, 16, 3)
    assert cmyk[0, 8, 8, 0] > 200 > 60 > cmyk[0, 8, 8, 1]
    unit = decode_picture(picture_bytes(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"))
    assert unit[0, 0, 0].tolist() == [127, 127, 127]


def test_icc_profile_is_applied_and_a_broken_one_ignored():
    lab_red = Image.new("LAB", (8, 8), (136, 208, 195))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    frame = decode_picture(picture_bytes(lab_red, "TIFF", icc_profile=profile))[0, 4, 4]
    assert frame[0] > 240
    assert frame[1] < 40
    close(decode_picture(picture_bytes(gradient(), icc_profile=b"nonsense")), gradient())


def with_primaries_exchanged() -> bytes:
    """A profile that is sRGB but for red and green, which have changed places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = [132 + 12 * n for n in range(int.from_bytes(profile[128:132], "big"))]
    red, green = (next(at for at in entries if profile[at : at + 4] == tag) for tag in (b"rXYZ", b"gXYZ"))
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_profile_of_other_primaries_is_converted(format):
    data = picture_bytes(Image.new("RGB", (8, 8), (255, 0, 0)), format, icc_profile=with_primaries_exchanged())
    red, green, blue = decode_picture(data)[0, 4, 4]
    assert green > 245 > 10 > max(red, blue)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK"])
def test_a_profile_of_another_colour_space_does_no_harm(mode):
    format = "JPEG" if mode == "CMYK" else "PNG"
    image = Image.new("RGB", (8, 8), (102, 102, 102)).convert(mode)
    frame = decode_picture(picture_bytes(image, format, icc_profile=with_primaries_exchanged()))
    assert frame.shape == (1, 8, 8, 3) and np.abs(frame.astype(int) - 102).max() <= 12


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_any_channels(colour, channels):
    """Grey, RGB, and both with alpha; PIL cannot write these."""
    ramp = np.linspace(0, 65535, 256).reshape(16, 16)
    planes = {1: [ramp], 2: [ramp, ramp * 0 + 65535], 3: [ramp] * 3, 4: [ramp, ramp, ramp, ramp * 0 + 65535]}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.stack(planes, -1))
    frame = decode_picture(png(16, 16, 16, colour, rows))[0]
    assert np.abs(frame[..., 1].reshape(-1).astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (5, 301)])
def test_pictures_of_any_size(format, size):
    data = picture_bytes(Image.new("RGB", size[::-1], (200, 100, 50)), format)
    header = check_media(data, format.lower())
    assert (header.kind, header.height, header.width) == ("picture", *size)
    assert np.abs(decode_picture(data)[0].astype(int) - (200, 100, 50)).max() <= 12


def png(height: int, width: int, bits: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 30,000 x 30,000 pixels."""
    return png(30_000, 30_000, 8, 2, b"")


def test_bad_pictures_are_named():
    jpeg = picture_bytes(gradient(200, 200), "JPEG")
    assert reason(decode_picture, b"") == "empty"
    assert reason(decode_picture, jpeg[: len(jpeg) // 2]) == "truncated"
    assert reason(decode_picture, b"not a picture at all") == "corrupt"
    assert reason(decode_picture, bomb()) == "bomb"
    assert reason(read_header, bomb(), "png") == "bomb"
    webp = picture_bytes(gradient(200, 200), "WEBP")
    assert reason(decode_picture, webp[:-20]) == "truncated"


def test_an_unlimited_pil_still_refuses_a_bomb(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert reason(decode_picture, bomb()) == "bomb"


# animations


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_animation_is_a_clip_picked_by_its_own_delays(format):
    greys = [Image.new("L", (16, 16), STEP * n).convert("RGB") for n in range(4)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = picture_bytes(
        greys[0], format, save_all=True, append_images=greys[1:], duration=[100, 300, 100, 100], **options
    )
    header = check_media(data, format.lower())
    assert (header.kind, header.frames, header.height, header.width) == ("clip", 4, 16, 16)
    assert header.duration == pytest.approx(0.6)
    assert codes(decode_clip(data, 6, 10, 0.0)) == [0, 1, 1, 1, 2, 3]
    assert reason(decode_clip, data, 8, 10, 0.0) == "too_short"


def test_a_still_picture_is_no_clip():
    assert read_header(picture_bytes(gradient(), "GIF"), "gif").kind == "picture"


# clips


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi"])
def test_clip_header_and_frames(tmp_path, suffix):
    data = coded_clip(tmp_path / f"clip.{suffix}")
    header = check_media(data, suffix)
    assert (header.kind, header.frames, header.height, header.width) == ("clip", 20, 48, 64)
    assert header.fps == pytest.approx(10, rel=0.01)
    assert header.duration == pytest.approx(2, rel=0.01)
    assert codes(decode_clip(data, 20, 10, 0.9)) == list(range(20))


def test_frames_are_picked_by_time(tmp_path):
    data = coded_clip(tmp_path / "clip.mp4")
    assert codes(decode_clip(data, 4, 5, 0.0)) == [0, 2, 4, 6]
    assert codes(decode_clip(data, 4, 5, 0.999)) == [13, 15, 17, 19]
    assert codes(decode_clip(data, 4, 2, 0.0)) == [0, 5, 10, 15]
    assert codes(decode_clip(data, 4, 20, 0.0)) == [0, 0, 1, 1]
    assert codes(decode_clip(data, 1, 10, 0.5)) == [10]


def test_variable_frame_rate_goes_by_the_clock(tmp_path):
    data = uneven_clip(tmp_path / "uneven.mp4", [0, 100, 150, 600, 700, 1300])
    assert codes(decode_clip(data, 6, 5, 0.0)) == [0, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("width", [8, 32, 48, 50, 96, 144])
def test_narrow_clips_keep_their_rows(tmp_path, width):
    frames = decode_clip(coded_clip(tmp_path / "clip.mp4", frames=3, size=(48, width)), 3, 10, 0.0)
    assert frames.shape == (3, 48, width, 3)
    assert codes(frames) == [0, 1, 2]
    assert frames[0, :8, : width // 8].min() > 200


@pytest.mark.parametrize("size", [(33, 47), (17, 31)])
@pytest.mark.parametrize("suffix", ["webm", "avi"])
def test_clips_of_odd_sides(tmp_path, suffix, size):
    data = coded_clip(tmp_path / f"clip.{suffix}", frames=5, size=size)
    header = check_media(data, suffix)
    assert (header.height, header.width) == size
    frames = decode_clip(data, 5, 10, 0.0)
    assert frames.shape == (5, *size, 3) and codes(frames) == list(range(5))
    assert frames[0, :4, :4].min() > 200


@pytest.mark.parametrize(("rotation", "corner"), [(90, (-2, 2)), (180, (-2, -2)), (270, (2, -2))])
def test_rotation_is_applied(tmp_path, rotation, corner):
    data = coded_clip(tmp_path / "clip.mp4", frames=5, rotation=rotation)
    height, width = (48, 64) if rotation == 180 else (64, 48)
    header = read_header(data, "mp4")
    assert (header.height, header.width) == (height, width)
    frames = decode_clip(data, 2, 10, 0.0)
    assert frames.shape == (2, height, width, 3)
    white = [at for at in [(2, 2), (2, -2), (-2, 2), (-2, -2)] if frames[0][at].min() > 200]
    assert white == [corner]


def test_bad_clips_are_named(tmp_path):
    fast = coded_clip(tmp_path / "fast.mp4")
    slow = coded_clip(tmp_path / "slow.mp4", faststart=False)
    assert reason(decode_clip, b"", 4, 5, 0.0) == "empty"
    assert reason(decode_clip, bytes(1000), 4, 5, 0.0) == "corrupt"
    assert reason(decode_clip, sound_only(tmp_path / "sound.mp4"), 4, 5, 0.0) == "no_video"
    assert reason(decode_clip, fast, 21, 10, 0.0) == "too_short"
    for data, suffix in [(fast, "mp4"), (slow, "mp4")]:
        assert reason(read_header, data[: len(data) * 6 // 10], suffix) == "truncated"
    for suffix in ["mkv", "webm", "avi", "mov"]:  # FFmpeg would play what is left of these
        data = coded_clip(tmp_path / f"clip.{suffix}")
        assert reason(read_header, data[: len(data) * 6 // 10], suffix) == "truncated"
    broken = bytearray(fast)
    broken[len(fast) // 2 : -8] = bytes(len(fast) - len(fast) // 2 - 8)
    assert reason(check_media, bytes(broken), "mp4") == "corrupt"


def test_pick_frames_needs_sane_arguments():
    stamps = np.stack([np.arange(5), np.arange(1, 6)], 1) / 10
    for arguments in [(0, 5, 0.0), (2, 0, 0.0), (2, 5, 1.0), (2, 5, -0.1)]:
        with pytest.raises(ValueError, match="num_frames >= 1"):
            pick_frames(stamps, *arguments)
    assert pick_frames(stamps + 7.5, 5, 10, 0.99).tolist() == [0, 1, 2, 3, 4]  # a clip need not begin at 0


def test_the_verdict_survives_a_process_boundary():
    again = pickle.loads(pickle.dumps(UnreadableSample("bomb", "too large")))
    assert (again.reason, again.detail, str(again)) == ("bomb", "too large", "bomb: too large")


def test_truncated_animation_is_unreadable():
    frames = [Image.effect_noise((64, 64), 50).convert("RGB") for _ in range(6)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=100)
    assert reason(read_header, buffer.getvalue()[:-100], "webp") == "truncated"
