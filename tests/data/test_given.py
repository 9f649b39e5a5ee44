"""What a prompt gives: laid out over the frames, and every misuse named."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from media import coded_clip, codes, gradient
from PIL import Image

from mmflow.batch import Given, Request
from mmflow.data.given import read_given
from mmflow.data.requests import check_request, read_requests

SHAPE = (6, 30, 40)
PICTURE = np.asarray(gradient())
WHITE_LEFT = np.zeros((30, 40), np.uint8)
WHITE_LEFT[:, :20] = 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """picture.png and mask.png of 40 x 30, small.png, text.png that is none, clip.mp4 of 6 frames at 10 per second."""
    folder = tmp_path_factory.mktemp("given")
    gradient().save(folder / "picture.png")
    Image.fromarray(WHITE_LEFT).save(folder / "mask.png")
    gradient(20, 20).save(folder / "small.png")
    coded_clip(folder / "clip.mp4", frames=6)
    (folder / "text.png").write_text("no picture")
    return folder


def given(shape: tuple[int, int, int] = SHAPE, fps: float = 10.0, **media: object) -> Given | None:
    return read_given("prompt 3", shape, fps, media)


def laid_out(found: Given | None, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    assert found is not None
    return found.laid_out(*shape)


def test_nothing_given_is_nothing() -> None:
    assert given() is None and given(image=None, mask=None) is None


@pytest.mark.parametrize("kind", ["file", "PIL", "array"])
def test_a_first_and_a_last_frame(kind: str, folder: Path) -> None:
    image = {"file": folder / "picture.png", "PIL": gradient(), "array": PICTURE}[kind]
    pixels, unknown = laid_out(given(image=image, last_image=image))
    assert unknown.all((1, 2)).tolist() == unknown.any((1, 2)).tolist() == [False, True, True, True, True, False]
    assert np.array_equal(pixels[0], PICTURE) and np.array_equal(pixels[5], PICTURE) and not pixels[1:5].any()
    pixels, unknown = laid_out(given(last_image=image))
    assert unknown.all((1, 2)).tolist() == [True] * 5 + [False]


def test_a_mask_is_white_where_it_asks_for_something_new(folder: Path) -> None:
    for mask in (folder / "mask.png", Image.fromarray(WHITE_LEFT), WHITE_LEFT, WHITE_LEFT > 0):
        _, unknown = laid_out(given((1, 30, 40), image=PICTURE, mask=mask), (1, 30, 40))
        assert np.array_equal(unknown[0], WHITE_LEFT > 0)
    _, unknown = laid_out(given(image=PICTURE, mask=WHITE_LEFT))
    assert np.array_equal(unknown[0], WHITE_LEFT > 0) and unknown[1:].all()
    clip = np.stack([PICTURE] * 6)
    _, unknown = laid_out(given(video=clip, mask=WHITE_LEFT))
    assert np.array_equal(unknown, np.stack([WHITE_LEFT > 0] * 6))
    moving = np.stack([np.roll(WHITE_LEFT, n, 1) for n in range(6)])
    assert np.array_equal(laid_out(given(video=clip, mask=moving))[1], moving > 0)


def test_a_video_is_read_at_the_rate_of_what_is_made(folder: Path) -> None:
    shape = (8, 48, 64)
    for fps, frames in ((10.0, [0, 1, 2, 3, 4, 5]), (5.0, [0, 2, 4])):
        pixels, unknown = laid_out(given(shape, fps, video=folder / "clip.mp4"), shape)
        assert codes(pixels[: len(frames)]) == frames
        assert unknown.all((1, 2)).tolist() == [False] * len(frames) + [True] * (8 - len(frames))


def test_an_animated_picture_is_a_video(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (n * 60, 0, 0)) for n in range(4)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=125)
    pixels, unknown = laid_out(given((6, 8, 8), 8.0, video=tmp_path / "a.png"), (6, 8, 8))
    assert pixels[:4, 0, 0, 0].tolist() == [0, 60, 120, 180] and not unknown[:4].any() and unknown[4:].all()


CLIP = np.stack([PICTURE] * 4)
BAD = {
    "missing file": ({"image": "nowhere.png"}, r"prompt 3: image nowhere\.png: No such file"),
    "no picture": ({"image": "FOLDER/text.png"}, r"image .*text\.png cannot be read: "),
    "wrong size": ({"image": "FOLDER/small.png"}, r"small\.png is 20 x 20 .* 40 x 30 are to be made: .* set width 20"),
    "mask of another size": ({"image": PICTURE, "mask": "FOLDER/small.png"}, r"mask .*small\.png is 20 x 20"),
    "mask alone": ({"mask": WHITE_LEFT}, r"mask without image or video"),
    "mask of the last": ({"mask": WHITE_LEFT, "last_image": PICTURE}, r"mask without image or video"),
    "two beginnings": ({"image": PICTURE, "video": CLIP}, r"image and video both say how it begins"),
    "a clip as a picture": ({"image": CLIP}, r"image has 4 frames .* give it as video"),
    "too long": ({"video": np.stack([PICTURE] * 7)}, r"video has 7 frames .* and 6 can be given: cut it"),
    "everything": ({"video": np.stack([PICTURE] * 6)}, r"video give everything: give a mask, or set frames to more"),
    "nothing": ({"image": PICTURE, "mask": np.full((30, 40), 255, np.uint8)}, r"mask is white everywhere"),
    "mask of other frames": ({"video": CLIP, "mask": np.zeros((3, 30, 40), bool)}, r"mask has 3 frames, .* has 4"),
    "last of one": ({"last_image": PICTURE, "shape": (1, 30, 40)}, r"last of 1 frames"),
    "last within the beginning": ({"last_image": PICTURE, "video": CLIP, "shape": (4, 30, 40)}, r"last of 4 frames"),
    "no pixels": ({"image": PICTURE.astype(np.float32)}, r"image must be uint8 of .* got float32"),
    "mask of numbers": ({"image": PICTURE, "mask": WHITE_LEFT.astype(np.float64)}, r"mask must be .* got float64"),
    "a picture whole": ({"image": PICTURE, "shape": (1, 30, 40)}, r"image give everything"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_given(name: str, folder: Path) -> None:
    media, message = BAD[name]
    media = {k: v.replace("FOLDER", str(folder)) if isinstance(v, str) else v for k, v in media.items()}
    with pytest.raises(ValueError, match=message):
        given(**media)


def test_requests_read_files_beside_their_own(folder: Path) -> None:
    rows = [
        {"prompt": "a", "image": "picture.png", "frames": 6, "width": 40, "height": 30},
        {"prompt": "b", "image": str(folder / "picture.png"), "mask": "mask.png", "width": 40, "height": 30},
        {"prompt": "c"},
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clip, filled, plain = read_requests(str(folder / "prompts.jsonl"), (1, 32, 32), 7, 10.0)
    assert clip.given is not None and clip.given.files == {"image": str(folder / "picture.png")}
    assert (clip.frames, clip.height, clip.width, clip.seed) == (6, 30, 40, 7)
    assert filled.given is not None and set(filled.given.files) == {"image", "mask"}
    assert plain.given is None and plain == Request(2, "c", 7, 1, 32, 32)
    (folder / "prompts.jsonl").write_text('{"prompt": "a", "image": 3}\n')
    with pytest.raises(ValueError, match="image must be a text, got 3"):
        read_requests(str(folder / "prompts.jsonl"), (1, 32, 32), 0, 10.0)


def test_a_model_without_an_input_for_it_is_told(folder: Path) -> None:
    request = Request(0, "a", 0, *SHAPE, given=given(image=folder / "picture.png"))
    backbone = SimpleNamespace(check_shape=lambda *shape: 1, takes_known=False)
    with pytest.raises(ValueError, match=r"prompt 0 \('a'\) gives image, .*design\.known true"):
        check_request(request, lambda t, h, w: (3, t, h, w), backbone)
    backbone.takes_known = True
    check_request(request, lambda t, h, w: (3, t, h, w), backbone)


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    for image in (clear, tmp_path / "clear.png"):
        assert (laid_out(given(image=image))[0][0] == 255).all()
