"""Memory of what a run does between its steps: encoding and decoding pictures and clips, previews, saving.

Frozen autoencoders are followed on tensors without storage, as the training step is. Where a configuration's weights
are not at hand the network is that of the published one with its channels and stride, which is said.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from mmflow.batch import Conditioning, TextFeatures
from mmflow.encoders.bare import bare_autoencoder
from mmflow.model.mmdit import MMDiT
from mmflow.planning.memory import HOST, Shape, _bytes, _swap


@dataclass(frozen=True)
class Aside:
    """Bytes at the peak of each, beside what lasts.

    Attributes:
        encode: pixels to latents, as many frames at a time as the autoencoder takes.
        decode: latents to pixels.
        preview: one pass of the network over a preview, both halves of guidance.
        save: the largest tensor, which passes through the host on its way to the file.
        notes: what was assumed.
    """

    encode: float
    decode: float
    preview: float
    save: float
    notes: tuple[str, ...] = ()

    @property
    def peak(self) -> float:
        """They come one after the other."""
        return max(self.encode, self.decode, self.preview, self.save)


def aside(
    model: MMDiT,
    autoencoder: Any,
    shapes: Sequence[Shape],
    pixels: Sequence[tuple[int, int, int]],
    previews: int,
    item: int = 4,
) -> Aside:
    """Of a job.

    Args:
        model: on the meta device.
        autoencoder: the configuration's, which may be without weights.
        shapes: of the job's mix.
        pixels: (T, H, W) of the same in pixels.
        previews: samples of a preview.
        item: bytes of a number of the autoencoder's arithmetic; 0 where it works on the host.
    """
    largest = max(range(len(shapes)), key=lambda n: pixels[n][0] * pixels[n][1] * pixels[n][2])
    shape, size = shapes[largest], pixels[largest]
    encode, decode, notes = _autoencoder(autoencoder, size, shape.latents) if item else (0.0, 0.0, ())
    encode, decode = (bytes_ * item / 4 for bytes_ in (encode, decode))
    preview = _forward(model, Shape(2 * max(1, previews), shape.latents, shape.words)) if previews else 0.0
    save = max(4.0 * p.numel() for p in model.parameters())
    return Aside(encode, decode, preview, save, notes)


def _autoencoder(
    autoencoder: Any, size: tuple[int, int, int], latents: tuple[int, int, int]
) -> tuple[float, float, tuple[str, ...]]:
    frames = getattr(autoencoder, "max_frames", None)
    if frames is None:
        return 0.0, 0.0, ()
    channels, stride = autoencoder.channels, autoencoder.stride
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        network = bare_autoencoder(channels, stride)
    if network is None:
        about = f"{channels} channels and a stride of {list(stride)}"
        return 0.0, 0.0, (f"encoding and decoding are not counted: no autoencoder of {about} is published here",)
    frame_wise = stride[0] == 1
    count = frames if frame_wise else max(1, frames // size[0])
    t, h, w = size if not frame_wise else (1, *size[1:])
    _, lh, lw = latents
    with mode:
        x = torch.empty(count, 3, *((h, w) if frame_wise else (t, h, w)), device=HOST)
        z = torch.empty(count, channels, *((lh, lw) if frame_wise else latents), device=HOST)
    encode = _peak(network, lambda: network.encode(x).latent_dist.mode())
    decode = _peak(network, lambda: network.decode(z).sample)
    name, each = type(network).__name__, 1 if frame_wise else size[0]
    note = f"encoding and decoding {count} x {each} frames of {h} x {w} at a time, as {name} of the published sizes"
    return encode, decode, (note,)


def _peak(network: torch.nn.Module, call: Callable[[], Any]) -> float:
    """Most bytes beside the weights while `call` runs without gradients, on fake tensors."""
    tracker = MemTracker()
    tracker.track_external(network)
    with torch.no_grad(), tracker:
        call()
    return float(_bytes(tracker, "peak", "Total") - _bytes(tracker, "peak", "PARAM"))


def _forward(model: MMDiT, shape: Shape) -> float:
    """One pass over samples of one shape in fp32, through its first and last block: blocks free what they take."""
    whole, real = model.blocks, dict(model.named_parameters())
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model.blocks = torch.nn.ModuleList([whole[0], whole[-1]] if len(whole) > 1 else [whole[0]])
    kept = dict(model.named_parameters())
    with mode:
        fakes = {name: torch.nn.Parameter(torch.empty(p.shape, device=HOST)) for name, p in kept.items()}
        n = shape.samples
        z, t = torch.empty(n, model.in_channels, *shape.latents, device=HOST), torch.empty(n, device=HOST)
        context = torch.empty(n * shape.words, model.context_width, device=HOST)
        pooled = torch.empty(n, model.pooled_width, device=HOST)
    _swap(model, fakes)
    text = TextFeatures(context, torch.full((n, 1), shape.words), pooled)
    try:
        return _peak(model, lambda: model((z,), t, Conditioning(text)))
    finally:
        _swap(model, kept)
        model.blocks = whole
        assert dict(model.named_parameters()).keys() == real.keys()
