"""First weights, DiT's: shared by all backbones."""

from collections.abc import Iterable

from torch import nn

from mmflow.model.embed import PooledEmbedding, TimeEmbedding
from mmflow.model.heads import HeadNorm

EMBEDDING_STD = 0.02
"""Spread of the first weights of the embeddings of t and of pooled text."""


def initialise(network: nn.Module, zeroed: Iterable[nn.Linear], embedding_std: float) -> None:
    """Xavier linears, N(0, `embedding_std`) embeddings of t and pooled, norms by their heads' width, `zeroed` zeros."""
    embeddings: list[nn.Linear] = []
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, HeadNorm):
            module.reset_parameters()
        elif isinstance(module, TimeEmbedding | PooledEmbedding):
            embeddings += [module.first, module.second]
    for linear in embeddings:
        nn.init.normal_(linear.weight, std=embedding_std)
    for linear in zeroed:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
