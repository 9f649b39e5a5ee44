"""Attention looked at from outside: its largest logit and its entropy in each block (paper section 5.3.2, Fig 5)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmflow.model.attention import AbstractAttention, KeyRows, Rows
from mmflow.model.mmdit import AbstractBackbone
from mmflow.model.ragged import paired_runs

CHUNK = 1024
"""Queries whose logits are held at a time."""


@dataclass
class Seen:
    """Of all attention calls of one block.

    Attributes:
        max_logit: largest |q . k| / sqrt(E).
        entropy: of the weights of one query, in nats, summed over queries and heads.
        queries: how many they were, times heads.
    """

    max_logit: float = 0.0
    entropy: float = 0.0
    queries: int = 0

    @property
    def mean_entropy(self) -> float:
        """Nats; ln of the number of keys where attention is even, 0 where it has collapsed onto single keys."""
        return self.entropy / max(self.queries, 1)


@final
class Probe(AbstractAttention):
    """Does what another backend does, and records what it saw, in fp32."""

    def __init__(self, inner: AbstractAttention) -> None:
        self.inner = inner
        self.blocks: list[Seen] = []

    def dense(
        self, q: Float[Tensor, "B S K E"], k: Float[Tensor, "B M K E"], v: Float[Tensor, "B M K E"]
    ) -> Float[Tensor, "B S K E"]:
        self._see(q, k)
        return self.inner.dense(q, k, v)

    def ragged(
        self, q: Rows, k: KeyRows, v: KeyRows, lengths: Int[Tensor, " B"], key_lengths: Int[Tensor, " B"] | None = None
    ) -> Rows:
        for rows, keys, b, n, m in paired_runs(lengths, lengths if key_lengths is None else key_lengths):
            if n and m:
                self._see(q[rows].view(b, n, *q.shape[1:]), k[keys].view(b, m, *k.shape[1:]))
        return self.inner.ragged(q, k, v, lengths, key_lengths)

    @torch.no_grad()
    def _see(self, q: Float[Tensor, "B S K E"], k: Float[Tensor, "B M K E"]) -> None:
        seen = self.blocks[-1]
        keys = k.float().permute(0, 2, 3, 1)
        for part in q.float().transpose(1, 2).split(CHUNK, 2):
            with torch.autocast(q.device.type, enabled=False):
                logits = part @ keys * q.shape[-1] ** -0.5
            logs = torch.log_softmax(logits, -1)
            seen.max_logit = max(seen.max_logit, float(logits.abs().max()))
            seen.entropy -= float((logs.exp() * logs).sum())
            seen.queries += logits.shape[:-1].numel()


@contextmanager
def probed(network: AbstractBackbone) -> Iterator[Probe]:
    """Inside, the network's attention is recorded, block by block, in the returned probe's `blocks`.

    Raises:
        ValueError: if the network has no blocks whose attention can be exchanged.
    """
    inner, blocks = getattr(network, "attention", None), getattr(network, "blocks", None)
    if not isinstance(inner, AbstractAttention) or not isinstance(blocks, torch.nn.ModuleList):
        raise ValueError(f"{type(network).__name__} cannot be probed: it needs `attention` and `blocks`")
    probe = Probe(inner)
    hooks = [block.register_forward_pre_hook(lambda *_: probe.blocks.append(Seen())) for block in blocks]
    network.attention = probe  # type: ignore[assignment]
    try:
        yield probe
    finally:
        network.attention = inner  # type: ignore[assignment]
        for hook in hooks:
            hook.remove()
