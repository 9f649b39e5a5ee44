"""CLIP as transformers has it, from a folder or a repository id: pictures and prompts to one space."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mmflow.encoders.hub import complete, explained, local, quiet, read_config, require
from mmflow.metrics.features import Pictures
from mmflow.metrics.picture_input import PictureInput
from mmflow.metrics.pretrained import BUFFERS, conversion, digest

BATCH = 64
TOKENS = 77


@final
class ClipNetwork:
    """A CLIP with its tokenizer and its own way to see pictures.

    Args:
        model: transformers' CLIPModel.
        tokenizer: of the same library.
        pictures: how pictures are prepared.
    """

    def __init__(self, model: Any, tokenizer: Any, pictures: PictureInput) -> None:
        self.model, self.tokenizer, self.pictures = model.eval().float().requires_grad_(False), tokenizer, pictures
        self.device = "cpu"

    def to(self, device: str) -> None:
        """Moves the network."""
        if device != self.device:
            self.model.to(device)
            self.device = device

    @property
    def logit_scale(self) -> float:
        """exp of the learned log temperature; about 100 in released models."""
        return float(self.model.logit_scale.exp())

    @torch.inference_mode()
    def picture_features(self, pictures: Pictures) -> Float[Tensor, "N D"]:
        """Projected, not normalised, fp32 on the host."""
        parts = []
        for start in range(0, len(pictures), BATCH):
            pixels = self.pictures(pictures[start : start + BATCH]).to(self.device)
            parts.append(_tensor(self.model.get_image_features(pixel_values=pixels)).float().cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Projected, not normalised, fp32 on the host; prompts are cut after 77 tokens, the one that ends them kept."""
        different = list(dict.fromkeys(prompts))
        length = min(TOKENS, self.model.config.text_config.max_position_embeddings)
        parts = []
        for start in range(0, len(different), BATCH):
            tokens = self.tokenizer(
                different[start : start + BATCH],
                padding="max_length",
                truncation=True,
                max_length=length,
                return_tensors="pt",
            )
            # What fills a prompt up is after its end, and attention is causal: no mask is needed.
            parts.append(_tensor(self.model.get_text_features(input_ids=tokens["input_ids"].to(self.device))).cpu())
        places = {prompt: i for i, prompt in enumerate(different)}
        return torch.cat(parts).float()[[places[prompt] for prompt in prompts]]

    def cosines(self, pictures: Pictures, prompts: Sequence[str]) -> np.ndarray:
        """Cosine of each picture (N, H, W, 3) and its prompt, float64 (N,)."""
        x, y = self.picture_features(pictures).double(), self.text_features(prompts).double()
        cosines: np.ndarray = torch.nn.functional.cosine_similarity(x, y).numpy()
        return cosines


def _tensor(output: Any) -> Tensor:
    """The features: a tensor before transformers 5, an output that carries them from there on."""
    return output if isinstance(output, Tensor) else output.pooler_output


@lru_cache(maxsize=4)
def load_clip(path: str, processor: str | None = None) -> ClipNetwork:
    """The CLIP of a folder as `save_pretrained` writes it, or of a repository; read once for all that use it.

    Args:
        path: of the network.
        processor: of its tokenizer and picture settings, where they are elsewhere.

    Raises:
        ValueError: if it cannot be had, is no CLIP, or weights are missing or left over.
    """
    transformers = library()
    place = local(path)
    if place is not None and not list(place.glob("*.safetensors")):
        pickles = [file.name for file in place.glob("*.bin")]
        raise ValueError(
            f"{path}: holds no model.safetensors"
            + (
                f", only {pickles[0]}, a pickle, which mmflow never runs. Convert it: "
                + conversion(f"{path}/{pickles[0]}", f"{path}/model.safetensors")
                if pickles
                else ""
            )
        )
    if read_config(path).get("model_type") != "clip":
        raise ValueError(f"{path}: its config.json names the model {read_config(path).get('model_type')!r}, not 'clip'")
    with explained(path), quiet(transformers):
        model, info = transformers.CLIPModel.from_pretrained(path, use_safetensors=True, output_loading_info=True)
        tokenizer = load_tokenizer(processor or path)
    complete(info, path)
    extra = [name for name in info["unexpected_keys"] if name.rsplit(".", 1)[-1] not in BUFFERS]
    if extra:
        raise ValueError(f"{path}: its weights have more than a CLIP: {', '.join(sorted(extra)[:4])}")
    return ClipNetwork(model, tokenizer, picture_input(processor or path, model.config.vision_config.image_size))


def library() -> Any:
    """transformers, imported only once it is needed."""
    require("transformers")
    import transformers

    return transformers


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a folder or a repository.

    Raises:
        ValueError: if there is none.
    """
    transformers = library()
    with explained(path), quiet(transformers):
        return transformers.AutoTokenizer.from_pretrained(path)


def picture_input(path: str, size: int) -> PictureInput:
    """How the network of a folder or repository wants to see pictures; CLIP's way where it does not say."""
    place = local(path)
    if place is not None and not (place / "preprocessor_config.json").is_file():
        return PictureInput(size)
    return PictureInput.of_config(read_config(path, name="preprocessor_config.json"), size)


def label(path: str) -> str:
    """Short name of a network: its folder's or file's."""
    return Path(path).expanduser().name.removesuffix(".safetensors").removesuffix(".pt").removesuffix(".pth")


def clip_identity(path: str, processor: str | None = None) -> dict[str, Any]:
    """What numbers of a CLIP depend on, without loading it."""
    size = read_config(path).get("vision_config", {}).get("image_size", 224)
    return {
        "network": label(path),
        "weights": digest(path),
        "words": label(processor or path),
        "pictures": picture_input(processor or path, size).name(),
    }
