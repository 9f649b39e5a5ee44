"""The frozen networks as StableDiffusion3Pipeline wants them: whether it can hold them, and its folders."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import eye

from mmflow.encoders.autoencoder import AbstractAutoencoder
from mmflow.encoders.diffusers_autoencoder import DiffusersAutoencoder
from mmflow.encoders.hub import explained, local
from mmflow.encoders.joint_text import JointTextEncoder
from mmflow.encoders.pretrained_text import ClipEncoder
from mmflow.encoders.statistics import read_statistics
from mmflow.encoders.text import AbstractTextEncoder

Components = dict[str, list[str | None]]
"""What model_index.json says of each part: [library, class]; [None, None] of one that is left out."""
SUFFIXES = {"clip_l": "", "clip_g": "_2", "t5": "_3"}
PROJECTION = "text_projection.weight"


@dataclass(frozen=True)
class StockCall:
    """How the stock pipeline must be called to see captions as the run did.

    Attributes:
        max_sequence_length: T5's tokens.
        null_is_zero: the unconditional state is zeros, not the encoded empty caption.
        tokens: of a context.
        context_width: of a token.
        pooled_width: of the pooled features.
        absent: components that the pipeline must be told are not there.
    """

    max_sequence_length: int
    null_is_zero: bool
    tokens: int
    context_width: int
    pooled_width: int
    absent: tuple[str, ...]


def autoencoder_obstacles(autoencoder: AbstractAutoencoder) -> Iterator[str]:
    """Why the stock pipeline cannot decode with it."""
    if not isinstance(autoencoder, DiffusersAutoencoder):
        yield f"autoencoder {type(autoencoder).__name__}: they decode with an AutoencoderKL"
        return
    spec = autoencoder.spec
    if spec is not None and spec.family != "AutoencoderKL":
        yield f"autoencoder {spec.family}: they decode with an AutoencoderKL"
    if autoencoder.statistics is not None and spec is not None:
        shift, scale = read_statistics(autoencoder.statistics, spec.channels)
        if not isinstance(shift, float) or not isinstance(scale, float):
            yield "latents normalised per channel: they have one shift and one scale"


def text_obstacles(text: AbstractTextEncoder) -> Iterator[str]:
    """Why the stock pipeline cannot read prompts as the run does."""
    if not isinstance(text, JointTextEncoder):
        yield f"text encoder {type(text).__name__}: they read prompts with CLIP-L, CLIP-G and T5"
        yield _packed()
        return
    missing = [name for name in ("clip_l", "clip_g", "t5") if name not in text.names]
    if missing:
        yield f"no {', '.join(missing)}: they have all three, or zeros in the place of T5"
    for name, clip in text.clips.items():
        if name in text.absent:
            yield f"{name} is absent: they cannot do without it"
        if name == "clip_g" and clip.pooled != "projected":
            yield "clip_g unprojected: they project its pooled features"
    if text.layout != "sd3":
        yield _packed()


def _packed() -> str:
    return "packed text: they pad every caption to full length and attend to it (data.text_encoder.layout: sd3)"


def stock_call(text: JointTextEncoder) -> StockCall:
    """How the stock pipeline is called where there are no obstacles."""
    assert text.t5 is not None
    return StockCall(
        max_sequence_length=text.t5.max_length,
        null_is_zero=text.empty_caption == "null",
        tokens=77 + text.t5.max_length,
        context_width=text.context_width,
        pooled_width=text.pooled_width,
        absent=("text_encoder_3", "tokenizer_3") if "t5" in text.absent else (),
    )


def write_autoencoder(autoencoder: DiffusersAutoencoder, folder: Path) -> Components:
    """`folder`/vae, with the shift and scale that the run used."""
    network, shift, scale = autoencoder.loaded()
    network.register_to_config(shift_factor=shift, scaling_factor=scale)
    network.save_pretrained(folder / "vae")
    return {"vae": ["diffusers", "AutoencoderKL"]}


def write_text(text: JointTextEncoder, folder: Path) -> Components:
    """The text encoders and their tokenizers."""
    found: Components = {}
    for name, suffix in SUFFIXES.items():
        encoder = text.t5 if name == "t5" else text.clips[name]
        assert encoder is not None
        if name in text.absent:
            found |= {f"text_encoder{suffix}": [None, None], f"tokenizer{suffix}": [None, None]}
            continue
        network = _copied(encoder.folder("text_encoder"), folder / f"text_encoder{suffix}")
        tokenizer = _copied(encoder.folder("tokenizer"), folder / f"tokenizer{suffix}")
        if isinstance(encoder, ClipEncoder) and encoder.pooled == "unprojected":
            _unproject(network)
        if isinstance(encoder, ClipEncoder) and encoder.pad_id is not None:
            _pad_with(tokenizer, encoder.pad_id)
        kind = "T5EncoderModel" if name == "t5" else "CLIPTextModelWithProjection"
        found[f"text_encoder{suffix}"] = ["transformers", kind]
        found[f"tokenizer{suffix}"] = ["transformers", "T5TokenizerFast" if name == "t5" else "CLIPTokenizer"]
    return found


def _copied(source: tuple[str, str], target: Path) -> Path:
    """A folder of one network or tokenizer, from where the run has it.

    Weights are linked where the disk allows it: they are large, and nothing changes them in place.
    """
    place = local(source[0])
    if place is None:
        from huggingface_hub import snapshot_download

        with explained(source[0]):
            place = Path(snapshot_download(source[0], allow_patterns=[f"{source[1]}/*" if source[1] else "*"]))
    target.mkdir(parents=True)
    for file in (place / source[1]).iterdir():
        if file.suffix in (".bin", ".msgpack", ".h5") or not file.is_file():
            continue
        try:
            if file.suffix != ".safetensors":
                raise OSError("small files are copied")
            os.link(file.resolve(), target / file.name)
        except OSError:
            shutil.copyfile(file, target / file.name)
    return target


def _unproject(folder: Path) -> None:
    """SD3's CLIP-L takes pooled features as they are, by a projection that is the identity: gives the copy that one."""
    file = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text())
    text: dict[str, Any] = config.get("text_config") or config
    identity = eye(text["hidden_size"])
    with safe_open(file, "pt") as opened:
        if PROJECTION in opened.keys() and opened.get_tensor(PROJECTION).float().equal(identity):  # noqa: SIM118
            return
    tensors = load_file(file)
    file.unlink()
    dtype = next(iter(tensors.values())).dtype
    save_file({**tensors, PROJECTION: identity.to(dtype)}, file, {"format": "pt"})
    text["projection_dim"] = config["projection_dim"] = text["hidden_size"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _pad_with(folder: Path, pad_id: int) -> None:
    """Makes the tokenizer fill up with the token that the run fills up with, where its own is another."""
    vocabulary = folder / "vocab.json"
    if not vocabulary.is_file():
        return
    token = {place: text for text, place in json.loads(vocabulary.read_text(encoding="utf-8")).items()}[pad_id]
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            content["pad_token"] = token
            (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
