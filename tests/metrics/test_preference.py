"""HPS and PickScore: published layouts, the numbers of a network written another way, and their scales."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmflow.metrics import open_clip
from mmflow.metrics.clip_network import load_clip
from mmflow.metrics.open_clip import OpenClipSize
from mmflow.metrics.preference import Hps, PickScore
from mmflow.metrics.pretrained import check_layout, read_weights
from mmflow.metrics.proxy import summary, win_rate
from tests.metrics.published import drawn, published, tiny_clip, without_memory

SIZE = OpenClipSize(
    embed_dim=16,
    image_size=24,
    patch_size=8,
    vision_width=32,
    vision_layers=2,
    vision_heads=4,
    text_width=24,
    text_layers=2,
    text_heads=3,
    vocab_size=2514,
)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
PROMPTS = ["a red circle", "two green triangles", "a dog runs on the beach"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("weights") / "tiny-clip")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return drawn(open_clip.layout(SIZE))


class OpenClipTower(nn.Module):
    """open_clip's transformer as its transformer.py has it: pre-norm blocks around torch's own attention."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList()
        for _ in range(layers):
            block = nn.Module()
            block.ln_1, block.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            block.attn = nn.MultiheadAttention(width, heads, batch_first=True)
            block.mlp = nn.Module()
            block.mlp.c_fc, block.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.resblocks.append(block)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            y = block.ln_1(x)
            x = x + block.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
            x = x + block.mlp.c_proj(nn.functional.gelu(block.mlp.c_fc(block.ln_2(x))))
        return x


def norm(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return nn.functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def encode_image(w: dict[str, Tensor], pixels: Tensor) -> Tensor:
    tower = OpenClipTower(SIZE.vision_width, SIZE.vision_heads, SIZE.vision_layers)
    tower.load_state_dict(part(w, "visual.transformer."))
    patches = nn.functional.conv2d(pixels, w["visual.conv1.weight"], stride=SIZE.patch_size).flatten(2).mT
    x = torch.cat([w["visual.class_embedding"].expand(len(pixels), 1, -1), patches], 1)
    x = tower(norm(w, "visual.ln_pre", x + w["visual.positional_embedding"]))
    return norm(w, "visual.ln_post", x[:, 0]) @ w["visual.proj"]


def encode_text(w: dict[str, Tensor], tokens: Tensor) -> Tensor:
    tower = OpenClipTower(SIZE.text_width, SIZE.text_heads, SIZE.text_layers)
    tower.load_state_dict(part(w, "transformer."))
    length = tokens.shape[1]
    causal = torch.full((length, length), float("-inf")).triu(1)
    x = tower(w["token_embedding.weight"][tokens] + w["positional_embedding"][:length], causal)
    return norm(w, "ln_final", x)[torch.arange(len(tokens)), tokens.argmax(-1)] @ w["text_projection"]


def test_hps_gives_the_cosine_of_open_clip_s_own_arithmetic(clip: Path, weights: dict, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from mmflow.metrics.picture_input import PictureInput

    torch.save({"state_dict": {n: w.half().float() for n, w in weights.items()}}, tmp_path / "HPS_v2.1_compressed.pt")
    hps = Hps(str(tmp_path / "HPS_v2.1_compressed.pt"), str(clip), size=SIZE)
    scores = hps.score([picture[None] for picture in PICTURES], PROMPTS)
    w = read_weights(str(tmp_path / "HPS_v2.1_compressed.pt"))
    tokens = AutoTokenizer.from_pretrained(clip)(PROMPTS, padding=True, return_tensors="pt")["input_ids"]
    # open_clip pads with 0, which is no other number than any that follows the end of a causal prompt
    ends = (tokens == tokens.max()).int().argmax(1)
    tokens = torch.stack([torch.where(torch.arange(len(t)) > end, 0, t) for t, end in zip(tokens, ends, strict=True)])
    with torch.no_grad():
        expected = torch.cosine_similarity(encode_image(w, PictureInput(24)(PICTURES)), encode_text(w, tokens))
    assert np.allclose(scores, expected.numpy(), atol=1e-5) and np.ptp(scores) > 0.03
    assert hps.name == "hps_v2.1" and hps.absent() is None


def test_pick_score_is_the_cosine_times_its_own_temperature(clip: Path) -> None:
    network = load_clip(str(clip))
    scores = PickScore(str(clip), processor=None).score([picture[None] for picture in PICTURES], PROMPTS)
    assert np.allclose(scores, network.logit_scale * network.cosines(PICTURES, PROMPTS), atol=1e-6)
    assert network.logit_scale > 2  # so that a forgotten factor would show


def test_the_published_layouts_key_by_key() -> None:
    assert open_clip.layout(OpenClipSize()) == published("hps_v2") and len(published("hps_v2")) == 689 - 3
    with torch.device("meta"):
        from transformers import CLIPModel

        pick = CLIPModel(open_clip._config(OpenClipSize(), 49407))
    check_layout(pick.state_dict(), published("pick_score"), "PickScore_v1")
    renamed = open_clip.to_transformers(without_memory(published("hps_v2")))
    assert {name: tuple(w.shape) for name, w in renamed.items()} == published("pick_score")


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_file_that_does_not_fit_is_refused(change: str, clip: Path, weights: dict, tmp_path: Path) -> None:
    spoilt = dict(weights)
    if change == "missing":
        del spoilt["visual.proj"]
    elif change == "extra":
        spoilt["score_head.weight"] = torch.zeros(2)
    else:
        spoilt["ln_final.bias"] = torch.zeros(5)
    save_file(spoilt, tmp_path / "hps.safetensors")
    words = {"missing": r"missing: visual\.proj", "extra": r"unexpected: score_head\.weight", "shape": r"bias \(5,\)"}
    with pytest.raises(ValueError, match=words[change]):
        Hps(str(tmp_path / "hps.safetensors"), str(clip), size=SIZE).score([PICTURES[:1]], PROMPTS[:1])


def test_a_pickle_of_objects_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save({"model": Path("x")}, tmp_path / "hps.pt")
    with pytest.raises(ValueError, match=r"(?s)never runs.*weights_only=False.*hps\.safetensors"):
        read_weights(str(tmp_path / "hps.pt"))
    torch.save({"step": 3}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="expected tensors by name"):
        read_weights(str(tmp_path / "other.pt"))
    assert Hps(str(tmp_path / "none.pt"), "x/y").absent() == f"{tmp_path / 'none.pt'} is not there"


def test_another_vocabulary_is_refused(clip: Path, weights: dict, tmp_path: Path) -> None:
    save_file(weights, tmp_path / "hps.safetensors")
    with pytest.raises(ValueError, match="2514 tokens, the network 2515"):
        wrong = OpenClipSize(**{**vars(SIZE), "vocab_size": 2515})
        Hps(str(tmp_path / "hps.safetensors"), str(clip), size=wrong).score([PICTURES[:1]], PROMPTS[:1])


def test_means_and_win_rates_have_intervals_over_prompts() -> None:
    scores, prompts = np.array([1.0, 3.0, 5.0, 5.0]), ["a", "a", "b", "b"]
    found = summary(scores, prompts)
    assert found["value"] == 3.5 and found["n"] == 4 and found["low"] == 2.0 and found["high"] == 5.0
    assert win_rate(scores, np.array([0.0, 3.0, 6.0, 4.0]), prompts)["value"] == pytest.approx(2.5 / 4)
    with pytest.raises(ValueError, match="needs pairs: 4 scores, 3"):
        win_rate(scores, scores[:3], prompts)
