"""From a configuration to the job that is planned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmflow.cli import MmflowCLI
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
    notes = []
    text = data.encoders.text
    if getattr(text, "layout", "packed") == "sd3":
        words = PADDED_CLIP_WORDS + (text.t5.max_length if text.t5 is not None else 0)
        notes.append(f"captions are padded to {words} tokens (text_encoder.layout sd3)")
    else:
        notes.append(f"captions of {words} tokens (--words)")
    media = dict(data.mix.media())
    sizes = data.mix.framing.sizes
    mix, pixels = [], []
    for medium, share in media.items():
        frames = 1 if medium == "picture" else data.mix.framing.frames
        for height, width in sizes:
            _, t, h, w = data.encoders.latent_shape(frames, height, width)
            mix.append((share / len(sizes), Shape(1, (t, h, w), words)))
            pixels.append((frames, height, width))
    if len(sizes) > 1:
        notes.append(f"all {len(sizes)} sizes come equally often")
    unit = max(1, round(1 / min(share for share, _ in mix)))
    shapes = tuple(Shape(max(1, round(share * unit)), s.latents, s.words) for share, s in mix)
    muon = isinstance(module.optimizer_recipe, Muon)
    moments = sum(p.numel() * FP32 * (1 if muon and is_hidden(name, p) else 2) for name, p in model.named_parameters())
    networks = frozen_networks(given["data"])
    notes += [f"{n.key}: {n.name} is not counted" for n in networks if n.bytes is None]
    notes += [
        f"{n.key}: {n.name}, {n.bytes / 1e9:.2f} GB by its published size" for n in networks if n.bytes is not None
    ]
    about = given["data"]["autoencoder"].get("init_args") or {}
    item = 0 if about.get("device") == "cpu" else BYTES[about.get("dtype") or "fp32"]
    previews = given.get("previews") or {}
    numbers = [previews.get(name, default) for name, default in (("num_pictures", 12), ("num_clips", 4))]
    between = aside(model, data.encoders.autoencoder, shapes, pixels, max(numbers), item)
    notes += between.notes
    steps = given["trainer"].get("max_steps")
    job = Job(
        model,
        shapes,
        data.batch_size,
        steps if steps is not None and steps > 0 else None,
        float(moments),
        1,
        float(sum(n.bytes or 0 for n in networks)),
        module.precision != "fp32",
        between.peak,
    )
    precision, recompute = module.precision, module.parallel.recompute
    return Planned(job, tuple(networks), text.context_width, between, precision, recompute, tuple(notes))
