"""What an autoencoder loses of held-out samples (SD3 paper, Table 3), and what its latents look like."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from mmflow.export import to_uint8
from mmflow.metrics.features import Frames
from mmflow.metrics.inception_features import InceptionFeatures
from mmflow.metrics.lpips import Backbone, Lpips
from mmflow.metrics.proxy import SetDistance
from mmflow.metrics.random_features import RandomFeatures
from mmflow.metrics.reconstruction import reconstruction_scores
from mmflow.metrics.video_features import RandomVideoFeatures

MEDIA = ("picture", "clip")
BATCH = 8


def autoencoder_report(
    config: str,
    num: int,
    device: str = "cpu",
    inception: str | None = None,
    lpips: str | None = None,
    backbone: Backbone = "alex",
) -> dict[str, Any]:
    """Encodes and decodes held-out samples of a configuration's data with its own autoencoder, deterministically.

    Args:
        config: with `data.autoencoder`.
        num: samples of each medium.
        device: where the autoencoder works.
        inception: weights for rFID; without them the distances are on fixed random networks, which compare with no
            published number.
        lpips: weights of LPIPS's backbone; without them there is no LPIPS.
        backbone: of LPIPS.

    Returns:
        `scores` by medium and name, `latents` (mean and standard deviation of each channel, by medium), `identity`,
        and `said`: what was left out, and why.

    Raises:
        ValueError: if there is nothing held out, or weights do not fit.
    """
    from mmflow.cli import MmflowCLI

    data = MmflowCLI(["predict", "--config", config], for_use=False).datamodule
    perceptual = None if lpips is None else Lpips(lpips, backbone)
    judges: list[Any] = [] if perceptual is None else [perceptual]
    distances = [SetDistance(RandomFeatures() if inception is None else InceptionFeatures(inception))]
    distances.append(SetDistance(RandomVideoFeatures()))
    for judge in (*judges, *distances):
        if (reason := judge.absent()) is not None:
            raise ValueError(f"{judge.name}: {reason}")
    data.encoders.autoencoder.load()
    report: dict[str, Any] = {"scores": {}, "latents": {}, "said": []}
    for medium in MEDIA:
        originals = list(data.mix.held_out(medium, num)) if medium in dict(data.mix.media()) else []
        if not originals:
            continue
        made, latents = _through(data.encoders, originals, device)
        report["scores"][medium] = reconstruction_scores(originals, made, distances, perceptual)
        report["latents"][medium] = latents
    if not report["scores"]:
        raise ValueError(f"{config}: no sample is held out, so there is nothing to encode")
    for asked, what in ((lpips, "LPIPS: left out, give --lpips"), (inception, "rFID: left out, give --inception")):
        if asked is None:
            report["said"].append(what)
    report["identity"] = {"autoencoder": data.encoders.autoencoder.identity(), "latents": "mean of the posterior"}
    return report


def _through(encoders: Any, originals: Sequence[Frames], device: str) -> tuple[list[Frames], dict[str, list[float]]]:
    """What comes back of each, and mean and standard deviation of the normalised latents' channels."""
    made: dict[int, Frames] = {}
    total, squares, count = 0.0, 0.0, 0
    for part in _alike(originals):
        pixels = torch.from_numpy(np.stack([originals[i] for i in part])).permute(0, 4, 1, 2, 3).to(device)
        z = encoders.encode_pixels(pixels)
        made |= {i: to_uint8(x) for i, x in zip(part, encoders.decode(z).cpu(), strict=True)}
        rows = z.double().transpose(0, 1).flatten(1).cpu()
        total, squares, count = total + rows.sum(1), squares + (rows**2).sum(1), count + rows.shape[1]
    mean = torch.as_tensor(total) / count
    std = (torch.as_tensor(squares) / count - mean**2).clamp_min(0).sqrt()
    return [made[i] for i in range(len(originals))], {"mean": mean.tolist(), "std": std.tolist()}


def _alike(media: Sequence[Frames]) -> Iterator[list[int]]:
    """Places of media of one shape, a batch at a time."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, frames in enumerate(media):
        by_shape.setdefault(frames.shape, []).append(index)
    for places in by_shape.values():
        for start in range(0, len(places), BATCH):
            yield places[start : start + BATCH]
