"""From a configuration to the job that is planned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmflow.cli import MmflowCLI
from mmflow.data.module import FlowData
from mmflow.model.mmdit import MMDiT
from mmflow.planning.aside import Aside, aside
from mmflow.planning.frozen import BYTES, Network, frozen_networks
from mmflow.planning.memory import FP32, Shape
from mmflow.planning.plan import Job
from mmflow.train.optim import Muon, is_hidden

PADDED_CLIP_WORDS = 77
"""Tokens of CLIP's part where captions are padded as SD3 does."""


@dataclass(frozen=True)
class Planned:
    """A job, and what was assumed for it.

    Attributes:
        job: what is planned.
        networks: the frozen networks beside it.
        context_width: of text features.
        aside: memory of what comes between steps.
        precision: of the run's arithmetic.
        recompute: what the configuration computes again.
        notes: assumptions, in words.
    """

    job: Job
    networks: tuple[Network, ...]
    context_width: int
    aside: Aside
    precision: str
    recompute: str
    notes: tuple[str, ...]


def planned(config: Path, overrides: Sequence[str], words: int) -> Planned:
    """Reads a configuration as `fit` would, without memory and without any weights.

    Args:
        config: the file.
        overrides: command-line settings over it.
        words: text tokens of a caption, where the configuration does not fix their number.

    Raises:
        ValueError: if the backbone is none that is planned.
    """
    cli = MmflowCLI(["fit", "--config", str(config), *overrides], for_use=False)
    module, data = cli.model, cli.datamodule
    model = module.backbone
    if not isinstance(model, MMDiT):
        raise ValueError(
            f"model.backbone {type(model).__name__}: the planner knows MMDiT; plan the MMDiT of that depth"
        )
    given: Mapping[str, Any] = cli.config["fit"].as_dict() if hasattr(cli.config["fit"], "as_dict") else {}
    text = data.encoders.text
    words, notes = caption_words(text, words)
    mix, pixels = sample_mix(data, words)
    if len(data.mix.framing.sizes) > 1:
        notes.append(f"all {len(data.mix.framing.sizes)} sizes come equally often")
    shapes = step_shapes(mix)
    networks = frozen_networks(given["data"])
    notes += [f"{n.key}: {n.name} is not counted" for n in networks if n.bytes is None]
    notes += [
        f"{n.key}: {n.name}, {n.bytes / 1e9:.2f} GB by its published size" for n in networks if n.bytes is not None
    ]
    between = between_steps(model, data, shapes, pixels, given)
    notes += between.notes
    steps = given["trainer"].get("max_steps")
    job = Job(
        model,
        shapes,
        data.batch_size,
        steps if steps is not None and steps > 0 else None,
        moment_bytes(model, isinstance(module.optimizer_recipe, Muon)),
        1,
        float(sum(n.bytes or 0 for n in networks)),
        module.precision != "fp32",
        between.peak,
    )
    precision, recompute = module.precision, module.parallel.recompute
    return Planned(job, tuple(networks), text.context_width, between, precision, recompute, tuple(notes))


def caption_words(text: Any, words: int) -> tuple[int, list[str]]:
    """Text tokens of a caption: as many as the encoder pads to, or `words`; and which of the two, in words."""
    if getattr(text, "layout", "packed") != "sd3":
        return words, [f"captions of {words} tokens (--words)"]
    padded = PADDED_CLIP_WORDS + (text.t5.max_length if text.t5 is not None else 0)
    return padded, [f"captions are padded to {padded} tokens (text_encoder.layout sd3)"]


def sample_mix(data: FlowData, words: int) -> tuple[list[tuple[float, Shape]], list[tuple[int, int, int]]]:
    """Every shape of a sample with its share of the samples; and its frames, height and width in pixels."""
    framing, mix, pixels = data.mix.framing, [], []
    for medium, share in dict(data.mix.media()).items():
        frames = 1 if medium == "picture" else framing.frames
        for height, width in framing.sizes:
            _, t, h, w = data.encoders.latent_shape(frames, height, width)
            mix.append((share / len(framing.sizes), Shape(1, (t, h, w), words)))
            pixels.append((frames, height, width))
    return mix, pixels


def step_shapes(mix: Sequence[tuple[float, Shape]]) -> tuple[Shape, ...]:
    """The smallest step that has the mix: its rarest shape once."""
    unit = max(1, round(1 / min(share for share, _ in mix)))
    return tuple(Shape(max(1, round(share * unit)), s.latents, s.words) for share, s in mix)


def moment_bytes(model: MMDiT, muon: bool) -> float:
    """Of the optimizer's state: two moments of every number, one where Muon takes it."""
    return float(
        sum(p.numel() * FP32 * (1 if muon and is_hidden(name, p) else 2) for name, p in model.named_parameters())
    )


def between_steps(
    model: MMDiT,
    data: FlowData,
    shapes: Sequence[Shape],
    pixels: Sequence[tuple[int, int, int]],
    given: Mapping[str, Any],
) -> Aside:
    """Memory of encoding, previews and saving, by the settings as they were given."""
    about = given["data"]["autoencoder"].get("init_args") or {}
    item = 0 if about.get("device") == "cpu" else BYTES[about.get("dtype") or "fp32"]
    previews = given.get("previews") or {}
    numbers = [previews.get(name, default) for name, default in (("num_pictures", 12), ("num_clips", 4))]
    return aside(model, data.encoders.autoencoder, shapes, pixels, max(numbers), item)
