"""Released text encoders: CLIP's and T5's for the joint encoder, and any other one of the transformers library."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import torch
from jaxtyping import Bool
from torch import Tensor

from mmflow.batch import TextFeatures
from mmflow.encoders.frozen import Dtype, Place
from mmflow.encoders.identity import Identity
from mmflow.encoders.parts import Part, Voice, join
from mmflow.encoders.text import AbstractTextEncoder
from mmflow.encoders.text_network import TextNetwork, TokenStates
from mmflow.said import Said

CLIP_TOKENS = 77
TextLayout = Literal["packed", "sd3"]


def _checked_width(network: TextNetwork, name: str, declared: int | None) -> int:
    """The width that a network's config states under `name`, or the declared one if it has not to be asked."""
    found = network.config().get(name)
    if declared not in (None, found) or not isinstance(found, int):
        raise ValueError(f"the text encoder {network.path} has {name} {found}, the configuration says {declared}")
    return found


@final
class ClipEncoder:
    """The text half of a CLIP: penultimate hidden states, without the final norm, and pooled features.

    Args:
        path: a folder or a repository id; the text half alone, or a whole CLIP.
        subfolder: of the network in it, such as `text_encoder`.
        tokenizer_subfolder: of its tokenizer, such as `tokenizer`.
        width: of a token and of the pooled features; null reads it from config.json.
        pooled: `projected` into the space shared with pictures, or not: SD3 takes CLIP-G's so and CLIP-L's not.
        pad_id: fills captions up to 77 tokens where `layout` is sd3; null is the tokenizer's own, CLIP-G wants 0.
        dtype: of the weights and the arithmetic.
        device: `same` as the model, `cpu`, or `offload`: on the model's device while it works, else on the host.
    """

    def __init__(
        self,
        path: str,
        subfolder: str = "",
        tokenizer_subfolder: str = "",
        width: int | None = None,
        pooled: Literal["projected", "unprojected"] = "projected",
        pad_id: int | None = None,
        dtype: Dtype = "fp32",
        device: Place = "same",
    ) -> None:
        name = "CLIPTextModelWithProjection" if pooled == "projected" else "CLIPTextModel"
        self._network = TextNetwork(
            path, subfolder, tokenizer_subfolder, lambda library, _: getattr(library, name), CLIP_TOKENS, dtype, device
        )
        self.pooled, self.pad_id = pooled, pad_id
        self._declared = width
        self.width = self._widths() if width is None or self._network.is_here() else width

    def _widths(self) -> int:
        width = _checked_width(self._network, "hidden_size", self._declared)
        projected = self._network.config().get("projection_dim", 512)
        if self.pooled == "projected" and projected != width:
            raise ValueError(
                f"the text encoder {self._network.path} projects {width} to {projected} numbers; only a square "
                "projection is supported: set `pooled: unprojected`"
            )
        return width

    def folder(self, part: Literal["text_encoder", "tokenizer"]) -> tuple[str, str]:
        """(folder or repository id, subfolder) of the network or of its tokenizer."""
        network = self._network
        return network.path, network.subfolder if part == "text_encoder" else network.tokenizer_subfolder

    def identity(self, whole: bool = False) -> Identity:
        """What its words depend on."""
        return {
            "kind": type(self).__name__,
            **self._network.identity(whole),
            "pooled": self.pooled,
            "pad_id": self.pad_id,
        }

    def load(self) -> None:
        """Reads the weights; ValueError if they cannot be had or have another width than the declared."""
        self._widths()
        self._network.load()

    def states(self, captions: list[str], device: torch.device, layout: TextLayout) -> TokenStates:
        """Hidden states and pooled features of captions, at least one.

        CLIP is causal, so what fills a caption up changes nothing of the states before it.
        """

        def read(output: Any, mask: Tensor) -> tuple[Tensor, Tensor]:
            pooled = output.text_embeds if self.pooled == "projected" else output.pooler_output
            return output.hidden_states[-2], pooled

        return self._network.run(
            captions,
            device,
            read,
            padding="max_length" if layout == "sd3" else "longest",
            attend_padding=True,
            pad_id=self.pad_id,
            output_hidden_states=True,
        )


@final
class T5Encoder:
    """The encoder of a T5: its last hidden states.

    Args:
        path: a folder or a repository id; the encoder alone, or a whole T5.
        subfolder: of the network in it, such as `text_encoder_3`.
        tokenizer_subfolder: of its tokenizer, such as `tokenizer_3`.
        width: of a token; null reads it from config.json.
        max_length: captions are cut after this many tokens; SD3 was trained with 77, later with 256.
        dtype: of the weights and the arithmetic; bf16 halves the 19 GB of T5-XXL, fp16 overflows.
        device: `same` as the model, `cpu`, or `offload`: on the model's device while it works, else on the host.
    """

    def __init__(
        self,
        path: str,
        subfolder: str = "",
        tokenizer_subfolder: str = "",
        width: int | None = None,
        max_length: int = 256,
        dtype: Dtype = "bf16",
        device: Place = "same",
    ) -> None:
        self._network = TextNetwork(
            path, subfolder, tokenizer_subfolder, lambda library, _: library.T5EncoderModel, max_length, dtype, device
        )
        self._declared, self.max_length = width, max_length
        self.width = self._found_width() if width is None or self._network.is_here() else width

    def _found_width(self) -> int:
        return _checked_width(self._network, "d_model", self._declared)

    def folder(self, part: Literal["text_encoder", "tokenizer"]) -> tuple[str, str]:
        """(folder or repository id, subfolder) of the network or of its tokenizer."""
        network = self._network
        return network.path, network.subfolder if part == "text_encoder" else network.tokenizer_subfolder

    def identity(self, whole: bool = False) -> Identity:
        """What its words depend on."""
        return {"kind": type(self).__name__, **self._network.identity(whole)}

    def load(self) -> None:
        """Reads the weights; ValueError if they cannot be had or have another width than the declared."""
        self._found_width()
        self._network.load()

    def states(self, captions: list[str], device: torch.device, layout: TextLayout) -> TokenStates:
        """Hidden states of captions, at least one; no pooled features.

        Packed, padding is masked in the network; SD3 lets it be attended (released code).
        """

        def read(output: Any, mask: Tensor) -> tuple[Tensor, Tensor]:
            return output.last_hidden_state, output.last_hidden_state.new_zeros(len(mask), 0)

        padding: Literal["longest", "max_length"] = "max_length" if layout == "sd3" else "longest"
        return self._network.run(captions, device, read, padding=padding, attend_padding=layout == "sd3")


def _any_text_model(library: Any, config: dict[str, Any]) -> Any:
    """The encoder alone where the library knows one for this kind of model, else the model."""
    kinds = {kind.model_type for kind in library.MODEL_FOR_TEXT_ENCODING_MAPPING}
    return library.AutoModelForTextEncoding if config.get("model_type") in kinds else library.AutoModel


@final
class TransformersEncoder(AbstractTextEncoder):
    """Any text model of the transformers library: last hidden states, and one vector of the whole caption.

    Args:
        path: a folder or a repository id.
        token_width: of a token; null reads it from config.json.
        max_length: captions are cut after this many tokens.
        pooled: the mean of a caption's tokens, its first or its last one.
        dtype: of the weights and the arithmetic.
        device: `same` as the model, `cpu`, or `offload`: on the model's device while it works, else on the host.
    """

    def __init__(
        self,
        path: str,
        token_width: int | None = None,
        max_length: int = 128,
        pooled: Literal["mean", "first", "last"] = "mean",
        dtype: Dtype = "fp32",
        device: Place = "same",
    ) -> None:
        self._network = TextNetwork(path, "", "", _any_text_model, max_length, dtype, device)
        self.pooled, self._declared, self.max_tokens = pooled, token_width, max_length
        # Not called `width`: a configuration that goes over from HashedWords would carry that one along.
        here = self._network.is_here()
        self.token_width = self._found_width() if token_width is None or here else token_width

    def _found_width(self) -> int:
        name = "d_model" if "d_model" in self._network.config() else "hidden_size"
        return _checked_width(self._network, name, self._declared)

    @property
    def names(self) -> tuple[str, ...]:
        return ("text",)

    @property
    def context_width(self) -> int:
        return self.token_width

    @property
    def pooled_width(self) -> int:
        return self.token_width

    def load(self, names: Sequence[str] | None = None) -> None:
        if names is None or "text" in names:
            self._found_width()
            self._network.load()

    def identity(self, name: str, whole: bool = False) -> Identity:
        return {"kind": type(self).__name__, **self._network.identity(whole), "pooled": self.pooled}

    def say(self, name: str, captions: list[str], device: torch.device | str = "cpu") -> Said:
        return self._states(captions, torch.device(device)).packed(whole=False)

    def _states(self, captions: list[str], device: torch.device) -> TokenStates:
        def read(output: Any, mask: Tensor) -> tuple[Tensor, Tensor]:
            states, lengths = output.last_hidden_state.float(), mask.sum(1)
            if self.pooled == "mean":
                return states, (states * mask[..., None]).sum(1) / lengths[:, None]
            return states, states[
                torch.arange(len(mask), device=mask.device), 0 if self.pooled == "first" else lengths - 1
            ]

        return self._network.run(captions, device, read)

    def encode(
        self,
        captions: list[str],
        kept: Bool[Tensor, "B E"] | None = None,
        device: torch.device | str = "cpu",
        said: Mapping[str, Said] | None = None,
    ) -> TextFeatures:
        where = torch.device(device)

        def ask(samples: list[int]) -> TokenStates:
            return self._states([captions[i] for i in samples], where)

        seen = [i for i, text in enumerate(captions) if text.strip() and (kept is None or bool(kept[i, 0]))]
        voice = Voice.of(seen, ask, (self.token_width, self.token_width), (said or {}).get("text"), where)
        return join([Part.of([voice], len(captions), where)], self.token_width)
