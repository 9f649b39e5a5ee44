"""Tiny random networks in the layouts that the real ones are published in, written by their own `save_pretrained`.

`clip_merges.txt` holds the first 2,000 of CLIP's 48,894 merges, unchanged (OpenAI, MIT licence; open-clip-torch ships
the whole list as bpe_simple_vocab_16e6.txt.gz, but cannot be imported without torchvision). A vocabulary cut short is
a vocabulary of the same tokenizer: frequent words are one token, rare ones fall into more pieces than in the whole one.
The slow tests take the whole one from the package, installed with `pip install --no-deps open-clip-torch`.
T5's vocabulary is trained here, by SentencePiece, on a few captions.
"""

import gzip
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

CAPTIONS = [
    "a photo of a red circle left of a blue square",
    "two green triangles",
    "a dog runs on the beach, painted in oil",
    "four black crosses and one white heart",
]
CLIP_L, CLIP_G, T5 = 32, 48, 96


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary, in the vocabulary's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def cut_merges() -> str:
    """The first 2,000 merges of CLIP's vocabulary."""
    return (Path(__file__).parent / "clip_merges.txt").read_text(encoding="utf-8")


def whole_merges() -> str:
    """All 48,894, from the package that ships them; it is found, not imported."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.submodule_search_locations, "pip install --no-deps open-clip-torch"
    file = Path(package.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    return "\n".join(["#version: 0.2", *lines[1 : 1 + 49152 - 256 - 2]]) + "\n"


def clip_tokenizer(folder: Path, merges_text: str, pad: str = "<|endoftext|>") -> None:
    """vocab.json, merges.txt and two small JSON files, as every published CLIP has them."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = ["".join(line.split()) for line in merges_text.splitlines()[1:]]
    letters = byte_letters()
    vocabulary = [*letters, *(x + "</w>" for x in letters), *merges, "<|startoftext|>", "<|endoftext|>"]
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = pad
    _json(folder / "vocab.json", {token: i for i, token in enumerate(vocabulary)})
    (folder / "merges.txt").write_text(merges_text, encoding="utf-8")
    _json(folder / "special_tokens_map.json", special)
    _json(folder / "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special})


def clip_text(folder: Path, width: int, seed: int, identity: bool = False, num_merges: int = 2000) -> None:
    """The text half of a CLIP with its projection, as SD3's `text_encoder` and `text_encoder_2` are.

    identity  the projection that SD3's CLIP-L has, whose pooled features are therefore unprojected
    """
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(seed)
    network = CLIPTextModelWithProjection(clip_text_config(width, num_merges))
    _shaken(network)
    if identity:
        network.text_projection.weight.data = torch.eye(width)
    network.save_pretrained(folder)


def clip_text_config(width: int, num_merges: int = 2000) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=512 + num_merges + 2,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        bos_token_id=512 + num_merges,
        eos_token_id=513 + num_merges,
        pad_token_id=513 + num_merges,
    )


def t5_tokenizer(folder: Path) -> None:
    """spiece.model and tokenizer_config.json, all that Google's T5-v1.1 has."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(sentencepiece_model())
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _json(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, **special})


@cache
def sentencepiece_model() -> bytes:
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS * 20),
        model_writer=model,
        vocab_size=64,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


def t5(folder: Path, width: int = T5) -> None:
    """The encoder of a T5-v1.1 (gated GELU)."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(2)
    config = T5Config(
        vocab_size=256,
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
        tie_word_embeddings=False,
    )
    network = T5EncoderModel(config)
    _shaken(network)
    network.save_pretrained(folder)


def picture_autoencoder(folder: Path, channels: int = 16, levels: int = 4) -> None:
    """An AutoencoderKL shaped as SD3's: `channels` latent channels, stride 2^(levels - 1), no quantising layers."""
    from diffusers import AutoencoderKL

    torch.manual_seed(3)
    network = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=[8] * levels,
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=channels,
        shift_factor=0.0609,
        scaling_factor=1.5305,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    network.save_pretrained(folder)


def sd3_folder(folder: Path, merges_text: str | None = None) -> Path:
    """The frozen parts of a diffusers SD3 folder: vae, text_encoder, _2, _3 and their tokenizers."""
    merges_text = cut_merges() if merges_text is None else merges_text
    num_merges = len(merges_text.splitlines()) - 1
    picture_autoencoder(folder / "vae")
    clip_text(folder / "text_encoder", CLIP_L, seed=0, identity=True, num_merges=num_merges)
    clip_text(folder / "text_encoder_2", CLIP_G, seed=1, num_merges=num_merges)
    t5(folder / "text_encoder_3")
    clip_tokenizer(folder / "tokenizer", merges_text)
    clip_tokenizer(folder / "tokenizer_2", merges_text, pad="!")
    t5_tokenizer(folder / "tokenizer_3")
    return folder


def _shaken(network: torch.nn.Module) -> None:
    """Weights large enough that no token, order or padding hides in rounding."""
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)


def _json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
