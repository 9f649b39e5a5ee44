"""Measure what samples of each shape cost a model on a device, for plans that deal by it.

    python tools/measure_cost.py --config C [--device cuda] [overrides as for fit]

Times forward and backward of every shape of the configuration's data, as many samples at a time as give --tokens
tokens, all shapes in turn; fits the time of a sample of n tokens by k (n + a n^2), and prints a as
--data.attention_cost. Without that a is 1 / (6 width), which counts operations; kernels are faster or slower than that.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mmflow.batch import Conditioning, TextFeatures
from mmflow.cli import build
from mmflow.data.cost import cost, fit_attention
from mmflow.encoders.lengths import context_tokens
from mmflow.train.precision import choose

Shape = tuple[int, int, int]


def batch(model: Any, latents: tuple[int, int, int, int], samples: int, words: int, device: torch.device) -> Any:
    """Random latents and captions of one shape."""
    z = torch.randn(samples, *latents, device=device)
    context = torch.randn(samples * words, model.context_width, device=device)
    text = TextFeatures(
        context, torch.full((samples, 1), words), torch.randn(samples, model.pooled_width, device=device)
    )
    return (z,), torch.rand(samples, device=device), Conditioning(text)


def seconds(model: Any, given: Any, precision: str) -> float:
    """Of one forward and backward."""
    device = given[1].device
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    model.zero_grad(set_to_none=True)
    wait()
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        (out,) = model(*given)
    out.float().square().mean().backward()
    wait()
    return time.perf_counter() - start


def measure(config: Path, overrides: list[str], device: torch.device, tokens: int, rounds: int) -> float:
    """The fitted a, with a table of what it was fitted to."""
    module, data = build(config, overrides)
    model: Any = module.backbone
    model.to_empty(device=device)
    model.reset_parameters()
    words = context_tokens(data.encoders.text)(80)
    precision = choose(module.precision, device)
    cases: dict[Shape, tuple[int, int, Any]] = {}
    for shape in data.mix.shapes():
        latents = data.encoders.latent_shape(*shape)
        n = model.check_shape(*latents[1:]) + words
        samples = max(1, tokens // n)
        cases[shape] = n, samples, batch(model, latents, samples, words, device)
    times: dict[Shape, list[float]] = {shape: [] for shape in cases}
    for _ in range(1 + rounds):
        for shape, (_, samples, given) in cases.items():
            times[shape].append(seconds(model, given, precision) / samples)
    took = {shape: statistics.median(each[1:]) for shape, each in times.items()}  # the first one warms up
    sizes = [n for n, *_ in cases.values()]
    found = fit_attention(sizes, list(took.values()))
    scale = sum(took.values()) / sum(cost(n, model.width, found) for n in sizes)
    table = Table("shape, pixels", "tokens", "ms per sample", "fitted", title=f"{device.type}, {precision}")
    for shape, (n, *_) in cases.items():
        row = (f"{took[shape] * 1e3:.2f}", f"{scale * cost(n, model.width, found) * 1e3:.2f}")
        table.add_row(" x ".join(map(str, shape)), str(n), *row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f"1 / (6 width) is {1 / (6 * model.width):.3e}. Measured:\n--data.attention_cost {found:.3e}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="of the training")
    parser.add_argument("--device", default="cpu", help="such as cuda; default cpu")
    parser.add_argument("--tokens", type=int, default=4096, help="of a batch, about; default 4096")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each shape; default 5")
    given, overrides = parser.parse_known_args(arguments)
    try:
        if given.tokens < 1 or given.rounds < 1:
            raise ValueError(f"--tokens {given.tokens} and --rounds {given.rounds} must be at least 1")
        measure(given.config, overrides, torch.device(given.device), given.tokens, given.rounds)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
