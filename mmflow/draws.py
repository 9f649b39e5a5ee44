"""Named randomness: every draw is a pure function of (seed, purpose, key, visit).

Nothing depends on rank, worker, batch or step count, so order, resume and sampling are exact on any layout. A name is
hashed (BLAKE2b, 128 bits) into the key of NumPy's counter-based Philox generator; numbers are drawn on the host in
fp32 and are therefore the same on every device.

    purpose  what the draw is for: "u", "eps", "caption", "crop", "start_frame", ...
    key      whose draw it is: (source, shard, member) of a sample, or ("prompt", text) of a picture to make
    visit    which pass over the source this is (0 for the first), so that a repeated sample draws anew
"""

import hashlib
import json
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Key = tuple[str | int, ...]
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def generator(seed: int, purpose: str, key: Key, visit: int) -> np.random.Generator:
    """The generator that this name, and no other, owns."""
    name = json.dumps([seed, purpose, list(key), visit], separators=(",", ":")).encode()
    digest = hashlib.blake2b(name, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def uniform(seed: int, purpose: str, key: Key, visit: int, shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
    """fp32 draws from U[0, 1) of the given shape."""
    return torch.as_tensor(generator(seed, purpose, key, visit).random(tuple(shape), dtype=np.float32))


def normal(seed: int, purpose: str, key: Key, visit: int, shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
    """fp32 draws from N(0, 1) of the given shape."""
    return torch.as_tensor(generator(seed, purpose, key, visit).standard_normal(tuple(shape), dtype=np.float32))


def choice(seed: int, purpose: str, key: Key, visit: int, weights: Sequence[float]) -> int:
    """One index, drawn with probability proportional to `weights`.

    Raises:
        ValueError: if no weight is positive, or one is negative.
    """
    if not weights or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights must be non-negative with a positive sum, got {list(weights)}")
    edges = np.cumsum(np.asarray(weights, dtype=np.float64))
    return int(np.searchsorted(edges, generator(seed, purpose, key, visit).random() * edges[-1], side="right"))


def low_discrepancy(seed: int, purpose: str, visit: int, position: int) -> float:
    """u = frac(u0(seed, visit) + position x golden ratio): evenly spread over any run of positions in the global
    order.
    """
    u0 = float(generator(seed, purpose, ("u0",), visit).random())
    return (u0 + position * GOLDEN_RATIO) % 1.0
