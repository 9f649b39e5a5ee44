"""A pretrained text network with its tokenizer: captions to hidden states, in the order of the captions."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmflow.encoders.frozen import Dtype, Frozen, Place
from mmflow.encoders.hub import complete, explained, quiet, read_config, require
from mmflow.encoders.identity import TOKENIZER, WEIGHTS, Identity, digest_of
from mmflow.said import Said

MAX_CAPTIONS = 64
"""Captions that go through a network at once."""


@dataclass(frozen=True)
class TokenStates:
    """What a text network says of n captions."""

    states: Float[Tensor, "n L C"]
    """fp32; rows past a caption's own tokens are the states of padding."""
    mask: Bool[Tensor, "n L"]
    """True on a caption's own tokens, the ones that begin and end it included (host memory)."""
    pooled: Float[Tensor, "n V"]

    def packed(self, whole: bool) -> Said:
        """Without padding; with it if it is a part of what is said (`whole`)."""
        mask = torch.ones_like(self.mask) if whole else self.mask
        return Said(self.states[mask.to(self.states.device)], mask.sum(1), self.pooled)

    @staticmethod
    def cat(parts: "list[TokenStates]") -> "TokenStates":
        """All captions of all parts; shorter parts are filled up with zero states."""
        longest = max(part.states.shape[1] for part in parts)

        def filled(x: Tensor) -> Tensor:
            return torch.cat([x, x.new_zeros(len(x), longest - x.shape[1], *x.shape[2:])], 1)

        return TokenStates(
            torch.cat([filled(part.states) for part in parts]),
            torch.cat([filled(part.mask) for part in parts]),
            torch.cat([part.pooled for part in parts]),
        )


@final
class TextNetwork:
    """Loads at its first use.

    Args:
        path: a folder as `save_pretrained` writes it, or a repository id.
        subfolder: of the network in it.
        tokenizer_subfolder: of the tokenizer in it.
        architecture: given the transformers library and config.json, the class to load.
        max_length: captions are cut after this many tokens.
        dtype: of the weights and the arithmetic.
        device: where it works.
    """

    def __init__(
        self,
        path: str,
        subfolder: str,
        tokenizer_subfolder: str,
        architecture: Callable[[Any, dict[str, Any]], Any],
        max_length: int,
        dtype: Dtype,
        device: Place,
    ) -> None:
        if max_length < 2:
            raise ValueError(f"max_length must be at least 2, got {max_length}")
        self.path, self.subfolder, self.tokenizer_subfolder = path, subfolder, tokenizer_subfolder
        self.max_length, self._architecture = max_length, architecture
        self._network = Frozen(self._load, dtype, device)
        self._tokenizer: Any = None

    def is_here(self) -> bool:
        """Whether its folder is on this machine, so that a declared width can be checked without asking a network."""
        return (Path(self.path).expanduser() / self.subfolder / "config.json").is_file()

    def config(self) -> dict[str, Any]:
        """config.json; of a model of text and pictures the part about text, and the width both are projected to: the
        one that the part states is a default that nobody set in the published CLIPs.
        """
        config = read_config(self.path, self.subfolder)
        if not config.get("text_config"):
            return config
        shared = {name: config[name] for name in ("projection_dim",) if name in config}
        return {**config["text_config"], **shared}

    def identity(self, whole: bool = False) -> Identity:
        """Its weights, its tokenizer, and what it does with them."""
        return {
            "path": f"{self.path}/{self.subfolder}",
            "weights": digest_of(self.path, self.subfolder, WEIGHTS, whole),
            "tokenizer": digest_of(self.path, self.tokenizer_subfolder, TOKENIZER),
            "max_length": self.max_length,
            "dtype": str(self._network.dtype).removeprefix("torch."),
        }

    def load(self) -> tuple[Any, Any]:
        """(network, tokenizer), read the first time.

        Raises:
            ValueError: if they cannot be had or are incomplete.
        """
        return self._network.load(), self._tokenizer

    def _load(self, dtype: torch.dtype) -> Any:
        require("transformers")
        import transformers

        config = self.config()
        options = {"projection_dim": config["projection_dim"]} if "projection_dim" in config else {}
        with quiet(transformers), explained(self.path):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(self.path, subfolder=self.tokenizer_subfolder)
            network, info = self._architecture(transformers, config).from_pretrained(
                self.path, subfolder=self.subfolder, dtype=dtype, output_loading_info=True, **options
            )
        complete(info, self.path)
        # Models without a padding token of their own never see what fills their batch up.
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._tokenizer.padding_side = "right"
        return network

    def run(
        self,
        captions: list[str],
        device: torch.device,
        read: Callable[[Any, Tensor], tuple[Tensor, Tensor]],
        *,
        padding: Literal["longest", "max_length"] = "longest",
        attend_padding: bool = False,
        pad_id: int | None = None,
        **options: bool,
    ) -> TokenStates:
        """States and pooled features of captions, at least one.

        Args:
            captions: texts.
            device: of the model and of the result.
            read: the network's output and the mask to (states, pooled).
            padding: to the longest caption of a chunk, or to `max_length`.
            attend_padding: give the network no mask, as SD3 does.
            pad_id: fills up in place of the tokenizer's own padding token.
            **options: of the network's forward.
        """
        parts = []
        with self._network.on(device) as (network, where):
            for start in range(0, len(captions), MAX_CAPTIONS):
                tokens = self._tokenizer(
                    captions[start : start + MAX_CAPTIONS],
                    padding=padding,
                    max_length=self.max_length,
                    truncation=True,
                    return_tensors="pt",
                )
                ids, mask = tokens.input_ids, tokens.attention_mask.bool()
                if pad_id is not None:
                    ids = ids.masked_fill(~mask, pad_id)
                given = mask.to(where)
                masked = {} if attend_padding else {"attention_mask": given.long()}
                states, pooled = read(network(input_ids=ids.to(where), **masked, **options), given)
                parts.append(TokenStates(states.float().to(device), mask, pooled.float().to(device)))
        return TokenStates.cat(parts)
