"""A mixed stream through our model, against padding and against buckets on diffusers': group `mixed` of tools/bench.py.

The stream: 24 pictures in five aspect ratios of 144 tokens each, and 12 clips of 8, 16 and 32 frames at 192 x 192
(after an autoencoder of stride 4 x 8 x 8 and patches of 2 x 2 x 2: 144, 288 and 576 tokens), their captions half alt
texts of 5 to 30 tokens and half synthetic ones of 40 to 150, as SD3 mixes them. Depth 4. Forward and backward over all
36 samples.

Ours packs six steps of six samples of any shape. The peers run diffusers' transformer on the very same tokens, a clip's
frame groups being stacked along the height: (a) all samples padded to the largest, six at a time; (b) one-shape
buckets, captions padded to 154, as many at a time as have as many tokens as one of our steps. Padding is not masked, as
in SD3.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bench_measure import Figure, Setting, interleaved
from bench_models import pair
from torch import Tensor, nn

from mmflow.batch import Conditioning, TextFeatures
from mmflow.model.mmdit import MMDiT
from mmflow.planning.flops import load_of, step_flops

DEPTH, STEP, PADDED_WORDS = 4, 6, 154
SAMPLES = 36
ASPECTS = ((24, 24), (18, 32), (32, 18), (16, 36), (36, 16))
CLIP_FRAMES = {8: 2, 16: 4, 32: 8}
"""Frames -> latent frames."""
REACH = {"padded to the largest": 2.5, "one-shape buckets": 1.4}


@dataclass(frozen=True)
class Item:
    """Latents of (T, H, W), and a caption's tokens."""

    shape: tuple[int, int, int]
    words: int

    @property
    def folded(self) -> tuple[int, int]:
        """Height and width of a picture of as many 2 x 2 patches."""
        t, h, w = self.shape
        return h * max(1, t // 2), w

    @property
    def tokens(self) -> int:
        """Visual ones."""
        h, w = self.folded
        return h * w // 4


def stream() -> list[Item]:
    """The samples, in a fixed random order."""
    draw = random.Random(0)
    items = []
    for n in range(SAMPLES):
        words = draw.randint(5, 30) if n % 2 else draw.randint(40, 150)
        if n % 3 == 2:
            items.append(Item((list(CLIP_FRAMES.values())[n // 3 % 3], 24, 24), words))
        else:
            items.append(Item((1, *ASPECTS[n % 5]), words))
    draw.shuffle(items)
    return items


def mixed(setting: Setting) -> list[Figure]:
    """Seconds for the whole stream: the ratio is that of samples per second."""
    both = pair(DEPTH, setting.device, qk_norm=True, table=160, clips=True)
    items = stream()
    packed = [our_step(both.ours, items[n : n + STEP], setting.device) for n in range(0, len(items), STEP)]
    flops = sum(step_flops(both.ours, [load_of(both.ours, item.shape, 1, item.words)]).total for item in items)
    peers = {
        "padded to the largest": padded(both.theirs, items, setting.device),
        "one-shape buckets": buckets(both.theirs, items, setting.device),
    }
    figures = []
    for precision in setting.precisions:
        about: dict[str, Any] = {"flops": flops, "peak": setting.peak(precision).flops}
        for name, calls in peers.items():
            sides = (through(setting, precision, both.ours, packed), through(setting, precision, both.theirs, calls))
            ours, peer = interleaved(setting, *sides)
            note = f"{len(items)} samples in {len(packed)} steps, theirs in {len(calls)}"
            figures.append(Figure(f"{name}, {precision}", ours, peer, REACH[name], **about, note=note))
    return figures


def through(
    setting: Setting, precision: str, model: nn.Module, calls: Sequence[Callable[[], Tensor]]
) -> Callable[[], None]:
    """Forward and backward of every call."""

    def run() -> None:
        for call in calls:
            for parameter in model.parameters():
                parameter.grad = None
            with setting.autocast(precision):
                out = call()
            out.float().square().mean().backward()

    return run


def our_step(model: MMDiT, items: Sequence[Item], device: torch.device) -> Callable[[], Tensor]:
    """Some samples as they are."""
    by_shape: dict[tuple[int, int, int], list[Item]] = defaultdict(list)
    for item in items:
        by_shape[item.shape].append(item)
    z = tuple(torch.randn(len(some), 16, *shape, device=device) for shape, some in by_shape.items())
    words = [item.words for some in by_shape.values() for item in some]
    text = TextFeatures(
        torch.randn(sum(words), model.context_width, device=device),
        torch.tensor(words)[:, None],
        torch.randn(len(words), model.pooled_width, device=device),
    )
    t = torch.rand(len(words), device=device)
    return lambda: torch.cat([out.flatten() for out in model(z, t, Conditioning(text))])


def their_step(model: nn.Module, size: tuple[int, int], count: int, words: int, device: torch.device) -> Any:
    """So many samples of one size."""
    z = torch.randn(count, 16, *size, device=device)
    context, pooled = torch.randn(count, words, 4096, device=device), torch.randn(count, 2048, device=device)
    t = 1000 * torch.rand(count, device=device)
    return lambda: model(z, context, pooled, t, return_dict=False)[0].flatten()


def padded(model: nn.Module, items: Sequence[Item], device: torch.device) -> list[Callable[[], Tensor]]:
    """Everything as large as the largest."""
    largest = max(items, key=lambda item: item.tokens).folded
    words = max(item.words for item in items)
    return [their_step(model, largest, len(items[n : n + STEP]), words, device) for n in range(0, len(items), STEP)]


def buckets(model: nn.Module, items: Sequence[Item], device: torch.device) -> list[Callable[[], Tensor]]:
    """Of one shape each, with as many tokens as one of our steps has on average."""
    budget = sum(item.tokens + item.words for item in items) * STEP / len(items)
    by_size: dict[tuple[int, int], int] = defaultdict(int)
    for item in items:
        by_size[item.folded] += 1
    calls = []
    for (h, w), count in by_size.items():
        limit = max(1, round(budget / (h * w / 4 + PADDED_WORDS)))
        while count > 0:
            calls.append(their_step(model, (h, w), min(limit, count), PADDED_WORDS, device))
            count -= limit
    return calls
