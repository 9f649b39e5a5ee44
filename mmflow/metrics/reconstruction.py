"""What an autoencoder loses: PSNR, SSIM and LPIPS as means over pictures, and rFID. Clips count frame by frame."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from mmflow.metrics.features import Floats, Frames
from mmflow.metrics.interval import Interval, bootstrap
from mmflow.metrics.lpips import Lpips
from mmflow.metrics.proxy import SetDistance

CHUNK = 64
WINDOW = 11
"""Pixels of SSIM's Gaussian window, whose sigma is 1.5."""


def psnr(one: Frames, two: Frames) -> Floats:
    """Of each pair of frames uint8 (N, H, W, 3), in dB with 255 as the peak; infinite where nothing is lost.

    The mean of these is the number that is published. torchmetrics' default pools the squared errors of all instead:
    two pictures at 40 and 6 dB are then 9.0 and not 23.0.
    """
    x, y = _pixels(one), _pixels(two)
    values = [
        peak_signal_noise_ratio(b[None], a[None], data_range=1.0, dim=(1, 2, 3), reduction="elementwise_mean")
        for a, b in zip(x, y, strict=True)
    ]
    found: Floats = torch.stack(values).double().numpy()
    return found


def ssim(one: Frames, two: Frames) -> Floats:
    """Of each pair of frames: Gaussian window of 11 pixels with sigma 1.5, K = (0.01, 0.03), mean over RGB.

    Raises:
        ValueError: if frames are smaller than the window.
    """
    if min(one.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM's window has 11 pixels, the pictures {one.shape[1]} x {one.shape[2]}")
    x, y = _pixels(one).double(), _pixels(two).double()  # variances of flat regions are small differences
    values = structural_similarity_index_measure(
        y, x, sigma=1.5, kernel_size=WINDOW, reduction="none", data_range=1.0, k1=0.01, k2=0.03
    )
    assert isinstance(values, Tensor)
    found: Floats = values.reshape(-1).double().numpy()
    return found


def _pixels(frames: Frames) -> Float[Tensor, "N 3 H W"]:
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 255


def reconstruction_scores(
    originals: Sequence[Frames],
    made: Sequence[Frames],
    distances: Sequence[SetDistance] = (),
    lpips: Lpips | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores of one medium by name: `psnr`, `ssim` and LPIPS, each the mean over media of the mean over frames, with a
    bootstrap over media; `psnr/first` and `psnr/last` of clips, whose ends a causal autoencoder does worst; distances
    of the made set to the original one, rFID on Inception.

    Args:
        originals: uint8 (T, H, W, 3) each.
        made: what came back of each.
        distances: to take.
        lpips: to take.

    Raises:
        ValueError: if there is nothing, or a pair differs in shape.
    """
    if not originals or [x.shape for x in originals] != [x.shape for x in made]:
        raise ValueError(f"a reconstruction needs pairs of one shape, got {len(originals)} and {len(made)}")
    scores: dict[str, dict[str, Any]] = {}
    pairs = list(zip(originals, made, strict=True))
    by_frame = [psnr(a, b) for a, b in pairs]
    scores["psnr"] = _mean([x.mean() for x in by_frame])
    if any(len(x) > 1 for x in originals):
        scores["psnr/first"] = _mean([x[0] for x in by_frame])
        scores["psnr/last"] = _mean([x[-1] for x in by_frame])
    scores["ssim"] = _mean([ssim(a, b).mean() for a, b in pairs])
    if lpips is not None:
        scores[lpips.name] = _mean([lpips(a, b).mean() for a, b in pairs])
    if len(originals) > 1:
        for distance in distances:
            if distance.features.clips_only and len(originals[0]) == 1:
                continue
            found = distance(distance.features.of(made), distance.features.of(originals))
            scores |= {name: dict(score) for name, score in found.items()}
    return scores


def _mean(values: Sequence[float]) -> dict[str, Any]:
    numbers = [float(x) for x in values]
    if not np.isfinite(numbers).all():  # nothing is lost somewhere, and the mean with it
        return asdict(Interval(float(np.mean(numbers)), float(np.min(numbers)), float(np.max(numbers)), len(numbers)))
    return asdict(bootstrap({"all": [[x] for x in numbers]}))
