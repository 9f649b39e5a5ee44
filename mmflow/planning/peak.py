"""How many matrix products a second a device can do at most: what utilisation is stated against."""

import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from mmflow.planning.hardware import GPUS

PROBE_SECONDS = 0.15
PROBE_SIDE = 1024


@dataclass(frozen=True)
class Peak:
    """FLOPs per second of matrix products, a multiplication and an addition counted as two.

    Attributes:
        flops: 0 where nothing is known.
        source: where the number is from, or why there is none.
    """

    flops: float
    source: str


def peak_of(device: torch.device, dtype: torch.dtype) -> Peak:
    """An accelerator's from its data sheet (bf16 only), a CPU's from a probe, taken once in a process."""
    if device.type == "cpu":
        return _probed(dtype, torch.get_num_threads())
    if device.type != "cuda":
        return Peak(0.0, f"no peak is known of a {device.type}")
    return named(torch.cuda.get_device_name(device), dtype)


def named(name: str, dtype: torch.dtype) -> Peak:
    """Of an accelerator by the name that its driver gives it, such as NVIDIA H100 80GB HBM3."""
    words = name.lower().replace("-", " ").split()
    found = [gpu for gpu in GPUS.values() if gpu.name.split("-")[0] in words or gpu.name in "".join(words)]
    if not found:
        return Peak(0.0, f"no peak is known of {name}: mmflow.planning.hardware lists {', '.join(GPUS)}")
    if dtype != torch.bfloat16:
        return Peak(0.0, f"the list has {found[0].name}'s peak in bf16 only")
    return Peak(found[0].flops, f"{found[0].name}'s data sheet, dense bf16")


@lru_cache(maxsize=8)
def _probed(dtype: torch.dtype, threads: int) -> Peak:
    """The best of some products of `PROBE_SIDE`^3, in `PROBE_SECONDS` but at least three."""
    a, b = (torch.randn(PROBE_SIDE, PROBE_SIDE).to(dtype) for _ in range(2))
    a @ b
    # One thread's own time is not disturbed by others on its core.
    clock = time.thread_time if threads == 1 else time.perf_counter
    began, best, count = clock(), float("inf"), 0
    while count < 3 or clock() - began < PROBE_SECONDS:
        start = clock()
        a @ b
        best, count = min(best, clock() - start), count + 1
    kind = str(dtype).removeprefix("torch.")
    return Peak(2 * PROBE_SIDE**3 / best, f"best of {count} products {PROBE_SIDE}^3 in {kind}, {threads} thread(s)")
