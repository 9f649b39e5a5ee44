"""CLIP by path: the numbers of transformers' own model, whatever the batch; clips; what does not fit is refused."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmflow.metrics.clip_network import load_clip
from mmflow.metrics.clip_score import ClipFeatures, ClipScore
from mmflow.metrics.features import show
from mmflow.metrics.picture_input import CLIP_MEAN, CLIP_STD, PictureInput
from tests.metrics.published import tiny_clip

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (5, 40, 30, 3), dtype=np.uint8)
PROMPTS = ["a red circle", "two green triangles", "a dog", "a red circle", "word " * 90]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("weights") / "tiny-clip")


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    """With transformers' model, tokenizer and Pillow-backed processor."""
    from transformers import AutoTokenizer, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    tokenizer, model = AutoTokenizer.from_pretrained(folder), CLIPModel.from_pretrained(folder).eval()
    pixels = processor([Image.fromarray(each) for each in PICTURES], return_tensors="pt")["pixel_values"]
    tokens = tokenizer(PROMPTS, padding=True, truncation=True, max_length=77, return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=pixels, **tokens)
    return (output.image_embeds * output.text_embeds).sum(-1).numpy()


def test_the_score_is_the_raw_cosine_of_the_library_s_own_model(folder: Path, expected: np.ndarray) -> None:
    score = ClipScore(str(folder))
    scores = score.score([picture[None] for picture in PICTURES], PROMPTS)
    assert scores.dtype == np.float64 and np.allclose(scores, expected, atol=1e-5)
    alone = score.score([PICTURES[2][None]], [PROMPTS[2]])
    assert alone[0] == pytest.approx(scores[2], abs=1e-6)
    assert score.name == "clip_score/tiny-clip" and score.absent() is None
    assert len(score.identity()["weights"]) == 16 and "bicubic" in score.identity()["pictures"]


def test_a_clip_s_score_is_the_mean_over_four_frames(folder: Path) -> None:
    score, clip = ClipScore(str(folder)), RNG.integers(0, 256, (9, 24, 24, 3), dtype=np.uint8)
    frames = [clip[i][None] for i in (0, 3, 5, 8)]
    assert all(np.array_equal(a, b[0]) for a, b in zip(show(clip), frames, strict=True))
    each = score.score(frames, ["a dog"] * 4)
    both = score.score([clip, PICTURES[0][None]], ["a dog", "a red circle"])
    assert both[0] == pytest.approx(each.mean(), abs=1e-6)
    features = ClipFeatures(str(folder))
    assert np.allclose(features.of([clip])[0], features(np.concatenate(frames)).mean(0), atol=1e-5)
    assert features.of([clip, PICTURES[0][None]]).shape == (2, 16)


def test_too_few_prompts_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="2 samples and 1 prompts"):
        ClipScore(str(folder)).score([PICTURES[:1], PICTURES[:1]], ["a dog"])


def spoilt(folder: Path, tmp_path: Path, change) -> Path:
    """A copy of the CLIP with other weights."""
    copy = tmp_path / "spoilt"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    change(weights)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


def test_weights_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    def lose(weights: dict) -> None:
        del weights["visual_projection.weight"]

    def add(weights: dict) -> None:
        weights["vision_model.head.weight"] = torch.zeros(3)

    with pytest.raises(ValueError, match=r"lack visual_projection\.weight"):
        load_clip(str(spoilt(folder, tmp_path / "a", lose)))
    with pytest.raises(ValueError, match=r"more than a CLIP: vision_model\.head\.weight"):
        load_clip(str(spoilt(folder, tmp_path / "b", add)))


def test_a_pickle_is_refused_with_the_way_to_convert_it_and_the_way_works(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "pickled"
    shutil.copytree(folder, copy)
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"only pytorch_model\.bin, a pickle") as said:
        load_clip(str(copy))
    command = str(said.value).split("Convert it: ")[1]
    _, flag, code = shlex.split(command)
    assert flag == "-c"
    exec(code, {})  # what the command does, in this process
    assert load_clip(str(copy)).logit_scale == pytest.approx(load_clip(str(folder)).logit_scale)


def test_what_is_no_clip_or_not_there_is_told(folder: Path, tmp_path: Path) -> None:
    assert "is not there" in ClipScore("./nowhere/clip.safetensors").absent()
    assert "no such file or folder" in ClipScore("./nowhere/clip").absent()
    copy = tmp_path / "bert"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(ValueError, match="names the model 'bert'"):
        load_clip(str(copy))


def test_pictures_are_prepared_as_the_folder_says(folder: Path) -> None:
    config = {"size": {"shortest_edge": 32}, "crop_size": {"height": 24, "width": 24}, "image_mean": [0.5] * 3}
    prepare = PictureInput.of_config({**config, "image_std": [0.5] * 3, "resample": 2}, 224)
    assert (prepare.size, prepare.short_side, prepare.resample) == (24, 32, 2)
    x = prepare(np.full((1, 64, 48, 3), 255, np.uint8))
    assert x.shape == (1, 3, 24, 24) and torch.allclose(x, torch.ones(()))
    black = PictureInput(24)(np.zeros((1, 24, 24, 3), np.uint8))
    assert black[0, :, 0, 0].tolist() == pytest.approx([-m / s for m, s in zip(CLIP_MEAN, CLIP_STD, strict=True)])
