"""From pictures to larger pictures to clips, each run started from the one before, and from released weights."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmflow import Pipeline
from mmflow.__main__ import main
from mmflow.data.decode import decode_clip
from mmflow.model.archive import write_file
from mmflow.model.design import Design
from mmflow.model.mmdit import MMDiT
from mmflow.model.publish import published
from mmflow.model.sizes import shape_of
from mmflow.train.weights import load_weights
from tests.encoders.published import picture_autoencoder
from tests.test_bad_input import refused_fit
from tests.test_cli import TINY

Said = pytest.CaptureFixture[str]
BACKBONE = "--model.backbone.init_args"
CONFIGS = Path(__file__).parent / "chain"
CHAIN = ("image_16", "image_32", "video", "first_frame")


def fit(capfd: Said, folder: Path, *args: object) -> str:
    """What a short run says."""
    command = ["fit", "--config", TINY, "--trainer.default_root_dir", folder, "--trainer.max_steps", 2, *args]
    main([str(arg) for arg in command])
    return capfd.readouterr().out


def test_pictures_then_larger_ones_then_clips_then_first_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Said
) -> None:
    picture_autoencoder(tmp_path / "vae", channels=4, levels=2)
    monkeypatch.chdir(tmp_path)  # the configurations name each other's runs
    said = {}
    for name in CHAIN:
        main(["fit", "--config", str(CONFIGS / f"{name}.yaml")])
        said[name] = capfd.readouterr().out
    for earlier, later in pairwise(CHAIN):
        assert f"weights of runs/{earlier}" in said[later], said[later]
    assert "copied" not in said["image_16"]
    assert "new: RMSNorm on queries and keys, with weight one" in said["image_32"]
    assert "grown: position table, from 8 to 16 patches" in said["image_32"]
    assert "grown: 3D patchifier of 4 frames from the 2D one" in said["video"]
    words = "grown: input for known parts: columns of zeros for mask and known latents (2 tensors"
    assert words in said["first_frame"]
    # Two steps at a learning rate that warms up leave the body near where it was.
    body = "blocks.0.visual.qkv.weight"
    chain = [load_weights(f"runs/{name}@raw")[body] for name in CHAIN]
    for before, after in pairwise(chain):
        assert 0 < (after - before).norm() < 0.1 * before.norm()
    # The columns of zeros have learned from what was given.
    embed = load_weights("runs/first_frame@raw")["video_patchifier.embed.weight"].view(64, 9, -1)
    assert embed[:, 4:].abs().amax((0, 2)).min() > 0
    # Predictions made with this random autoencoder show nothing: the pixels that are given come back as they are.
    keeps_the_first_frame(tmp_path / "runs" / "first_frame", capfd)


def keeps_the_first_frame(run: Path, capfd: Said) -> None:
    """`predict` and Pipeline, from a picture beside the file of prompts."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save(run / "first.png")
    rows = [{"prompt": "a red circle moving left", "image": "first.png", "frames": 4}, {"prompt": "x", "frames": 4}]
    (run / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["predict", "--ckpt_path", str(run), "--data.prompts", str(run / "prompts.jsonl")])
    index = [json.loads(line) for line in (run / "predictions" / "index.jsonl").read_text().splitlines()]
    assert index[0]["image"] == str(run / "first.png") and "image" not in index[1]
    clip = decode_clip((run / "predictions" / "00000.mp4").read_bytes(), 4, 8.0, 0.0)
    # H.264 halves the colours' resolution, which noise does not survive; its brightness does.
    assert np.abs(clip[0].mean(-1) - picture.mean(-1)).mean() < 25 < np.abs(clip[1].mean(-1) - picture.mean(-1)).mean()
    (from_python,) = Pipeline.load(run)("a red circle moving left", frames=4, image=run / "first.png")
    assert np.array_equal(from_python[0], picture) and not np.array_equal(from_python[1], picture)
    with pytest.raises(ValueError, match=r"the call: image .* is 64 x 64 .*, 32 x 64 are to be made"):
        Pipeline.load(run)("a", frames=4, width=32, image=run / "first.png")
    (run / "prompts.jsonl").write_text('{"prompt": "a", "mask": "first.png"}\n')
    with pytest.raises(SystemExit):
        main(["predict", "--ckpt_path", str(run), "--data.prompts", str(run / "prompts.jsonl")])
    assert "mask without image or video" in capfd.readouterr().err


def test_a_run_starts_from_released_weights(tmp_path: Path, capfd: Said) -> None:
    model = MMDiT(1, 3, 32, 24, 8, None, 32, qk_norm=False, design=Design(position_table=4))
    write_file(tmp_path / "sd3.safetensors", published(shape_of(model), "single-file", model.state_dict()), {})
    said = fit(capfd, tmp_path / "run", "--model.init_from", tmp_path / "sd3.safetensors")
    assert "copied: " in said and "new: RMSNorm" in said and "grown: 3D patchifier" in said
    kept = load_weights(f"{tmp_path / 'run'}@raw")["blocks.0.visual.mlp.0.weight"]
    torch.testing.assert_close(kept, model.blocks[0].visual.mlp[0].weight.detach(), atol=1e-2, rtol=0)
    said = refused_fit(capfd, tmp_path / "x", f"{BACKBONE}.depth", 2, "--model.init_from", tmp_path / "sd3.safetensors")
    assert "of depth 1, the model of depth 2: set --model.backbone.depth 1" in said
    eighths = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(tmp_path / "sd3.safetensors").items()}
    save_file(eighths, tmp_path / "sd3_fp8.safetensors")
    said = refused_fit(capfd, tmp_path / "y", "--model.init_from", tmp_path / "sd3_fp8.safetensors")
    assert "sd3_fp8.safetensors" in said and "F8_E4M3: fp8 weights cannot be trained" in said


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("w.gguf", b"GGUF", ["w.gguf", "GGUF"]),
        ("w.pt", b"\x80\x02.", ["w.pt", "convert"]),
        ("w.safetensors", b"\x00" * 20, ["w.safetensors", "safetensors file"]),
    ],
)
def test_what_cannot_be_started_from(name: str, content: bytes, words: list[str], tmp_path: Path, capfd: Said) -> None:
    (tmp_path / name).write_bytes(content)
    said = refused_fit(capfd, tmp_path / "run", "--model.init_from", tmp_path / name)
    for word in words:
        assert word in said, said
