"""Which precision a run computes in, chosen by what the machine is fast at."""

import time
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]
PROBE_SECONDS = 0.3


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
    """Matrix products per second of a size that training has."""
    a, b = torch.randn(2048, 256).to(dtype), torch.randn(256, 1024).to(dtype)
    a @ b
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < PROBE_SECONDS:
        a @ b
        count += 1
    return count / elapsed
