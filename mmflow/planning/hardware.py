"""Accelerators: memory and dense matrix throughput, from the makers' data sheets."""

from dataclasses import dataclass

GB = 10**9


@dataclass(frozen=True)
class Gpu:
    """One accelerator.

    Attributes:
        name: as on the command line.
        memory: bytes.
        flops: dense bf16 products per second, a multiplication and an addition counted as two.
        link: bytes per second of one accelerator to the others of its node, one way.
    """

    name: str
    memory: float
    flops: float
    link: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-40", 40 * GB, 312e12, 300 * GB),
        Gpu("a100", 80 * GB, 312e12, 300 * GB),
        Gpu("h100", 80 * GB, 989e12, 450 * GB),
        Gpu("h200", 141 * GB, 989e12, 450 * GB),
        Gpu("b200", 180 * GB, 2250e12, 900 * GB),
        Gpu("l40s", 48 * GB, 362e12, 32 * GB),
        Gpu("rtx4090", 24 * GB, 165e12, 32 * GB),
    )
}


def gpu_of(text: str) -> Gpu:
    """A known accelerator, or one given by its numbers: `name:GB:TFLOPS[:GB/s]`.

    Raises:
        ValueError: if it is neither.
    """
    if text in GPUS:
        return GPUS[text]
    name, *numbers = text.split(":")
    try:
        memory, flops, *link = (float(number) for number in numbers)
    except ValueError:
        memory = flops = 0.0
        link = []
    if min(memory, flops, *link) <= 0 or len(link) > 1:
        raise ValueError(
            f"unknown GPU {text!r}: known are {', '.join(GPUS)}; give another by its numbers, as "
            "name:GB:TFLOPS[:GB/s], for example mine:96:500:100 (memory, dense bf16, link to its neighbours)"
        )
    return Gpu(name, memory * GB, flops * 1e12, (link[0] if link else 32) * GB)
