"""A pretrained network as this project holds one: loaded at its first use, never trained, on a device of choice."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, final

import torch

Dtype = Literal["fp32", "bf16", "fp16"]
Place = Literal["same", "cpu", "offload"]
"""Where a frozen network works: on the model's device; on the host; or on the model's device but kept on the host
between calls, which costs a copy each time and frees the device's memory for training."""
DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@final
class Frozen:
    """Not a module on purpose: whoever holds one cannot register, train or save it by accident.

    Args:
        load: gives the network in the asked dtype, on the host.
        dtype: of its weights and arithmetic.
        place: where it works, see `Place`.
    """

    def __init__(self, load: Callable[[torch.dtype], Any], dtype: Dtype, place: Place) -> None:
        self._load, self.dtype, self.place = load, DTYPES[dtype], place
        self._network: Any = None

    def load(self) -> Any:
        """The network; its weights are read the first time."""
        if self._network is None:
            self._network = self._load(self.dtype).eval().requires_grad_(False)
        return self._network

    @contextmanager
    def on(self, device: torch.device) -> Iterator[tuple[Any, torch.device]]:
        """The network and the device that its inputs belong on, for work whose results are wanted on `device`."""
        network, where = self.load(), torch.device("cpu") if self.place == "cpu" else device
        network.to(where)
        try:
            with torch.no_grad():
                yield network, where
        finally:
            if self.place == "offload":
                network.to("cpu")
