"""Which precision a run computes in, chosen by what the machine is fast at."""

import time
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
PROBE_SECONDS, PROBE_PRODUCTS = 0.1, 3
"""How long either precision is tried at least: it is time before a run's first step."""


def choose(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """`precision`, with `auto` resolved: bf16 on an accelerator that has it; on a CPU the faster of the two in a
    probe.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if _rate(torch.bfloat16) > 1.2 * _rate(torch.float32) else "fp32"


def _rate(dtype: torch.dtype) -> float:
    """Matrix products per second of a size that training has: the best of some, which others on the machine disturb
    least.
    """
    a, b = torch.randn(2048, 256).to(dtype), torch.randn(256, 1024).to(dtype)
    a @ b
    began = now = time.perf_counter()
    best, count = float("inf"), 0
    while count < PROBE_PRODUCTS or now - began < PROBE_SECONDS:
        start = time.perf_counter()
        a @ b
        now = time.perf_counter()
        best, count = min(best, now - start), count + 1
    return 1 / best
