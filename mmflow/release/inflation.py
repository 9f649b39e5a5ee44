"""The proof that an inflated model is the picture model that it came from."""

from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from mmflow.batch import Conditioning, TextFeatures
from mmflow.model.layouts import rules
from mmflow.model.mmdit import MMDiT
from mmflow.model.sizes import shape_of
from mmflow.train.weights import check_weights, load_weights, start_weights

TOLERANCE = 1e-6
"""Of the largest output."""


def verify_inflation(run: Path) -> tuple[list[str], bool]:
    """Compares the picture model that a run started from with what it was inflated to, at step 0.

    Args:
        run: a run directory, or a configuration; its `model.init_from` names the picture model.

    Returns:
        What was compared and how it came out, for people; whether all of it held.

    Raises:
        ValueError: if the run's model has no 3D patchifier, or it started from nothing.
    """
    from mmflow.cli import build

    module, _ = build(run / "config.yaml" if run.is_dir() else run)
    source, inflated = module.init_from, module.backbone
    if source is None or not isinstance(inflated, MMDiT) or inflated.video_patchifier is None:
        raise ValueError(f"{run}: nothing was inflated: it needs model.init_from and an MMDiT with video_patch_size")
    z, conditioning = inputs(inflated)
    expected = output_of_the_source(inflated, source, z, conditioning)
    module.configure_model()
    with torch.no_grad():
        same = inflated((z,), torch.full((len(z),), 0.5), conditioning)[0]
        frames = inflated.video_patchifier.patch[0]
        clip = inflated((z.repeat(1, 1, frames, 1, 1),), torch.full((len(z),), 0.5), conditioning)[0]
    distance = ((clip - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
    changed = changed_tensors(inflated, source)
    checks = [
        (f"a picture repeated over {frames} frames gives the picture's output: {distance:.1e}", distance <= TOLERANCE),
        ("pictures through the 2D patchifier are untouched", torch.equal(same, expected)),
        (f"tensors of the picture half that are not the source's, bit for bit: {changed or 'none'}", not changed),
    ]
    if expected.abs().max() == 0:
        checks.append(("the source puts out zero for everything, so the outputs prove nothing", False))
    return [f"{'ok  ' if good else 'FAIL'} {text}" for text, good in checks], all(good for _, good in checks)


def output_of_the_source(inflated: MMDiT, source: str, z: Tensor, conditioning: Conditioning) -> Tensor:
    """What the model of pictures that `inflated` should be at T=1 puts out, with the source's weights.

    It is gone before `inflated`, which has no memory yet, gets its own: a machine need not hold both.
    """
    pictures = deepcopy(inflated)
    pictures.drop_clips()
    pictures.to_empty(device="cpu")
    pictures.reset_parameters()
    start_weights(pictures, source)
    with torch.no_grad():
        output: Tensor = pictures((z,), torch.full((len(z),), 0.5), conditioning)[0]
    return output


def inputs(model: MMDiT) -> tuple[Tensor, Conditioning]:
    """Two noisy pictures at the training resolution with captions of random features."""
    g = torch.Generator().manual_seed(0)
    size = model.picture_patchifier.base_size
    z = torch.randn(2, model.in_channels, 1, size, size, generator=g)
    text = TextFeatures(
        torch.randn(12, model.context_width, generator=g),
        torch.tensor([[5], [7]]),
        torch.randn(2, model.pooled_width, generator=g),
    )
    return z, Conditioning(text)


def changed_tensors(inflated: MMDiT, source: str) -> list[str]:
    """Tensors of the picture half that the source has and that would not go back as the same bytes."""
    found, state = load_weights(source), inflated.state_dict()
    check_weights(found, found, source)
    names = [rule.ours for rule in rules(shape_of(inflated), "diffusers") if rule.ours in found]
    return [
        name
        for name in names
        if found[name].shape == state[name].shape and not torch.equal(state[name].to(found[name].dtype), found[name])
    ]
