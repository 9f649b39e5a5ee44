"""The same network twice for tools/bench.py: ours, and diffusers' with our weights under its names."""

from dataclasses import dataclass

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from mmflow.batch import Conditioning, TextFeatures
from mmflow.model.design import Design
from mmflow.model.interop import transformer_config
from mmflow.model.layouts import rules
from mmflow.model.mmdit import MMDiT
from mmflow.model.sizes import shape_of
from mmflow.planning.flops import Load, step_flops


@dataclass(frozen=True)
class Pair:
    """Two networks that are one function of pictures.

    Attributes:
        ours: an MMDiT, for pictures, or for pictures and clips.
        theirs: SD3Transformer2DModel.
    """

    ours: MMDiT
    theirs: nn.Module


def pair(depth: int, device: torch.device, *, qk_norm: bool, table: int = 64, clips: bool = False) -> Pair:
    """Both with random weights all of which matter; 16 channels, 4096 and 2048 wide text, as SD3 has them."""
    model = MMDiT(
        depth,
        video_patch_size=(2, 2, 2) if clips else None,
        qk_norm=qk_norm,
        design=Design(position_table=table),
    ).to(device)
    for name, parameter in model.named_parameters():
        if "norm_" not in name:
            nn.init.normal_(parameter, std=0.02)
    shape = shape_of(model)
    config = {k: v for k, v in transformer_config(shape, 32).items() if k != "_class_name"}
    theirs = SD3Transformer2DModel(**config).to(device)
    state = model.state_dict()
    renamed = (rule.to_theirs(state[rule.ours], shape.patch_size) for rule in rules(shape, "diffusers"))
    theirs.load_state_dict({name: tensor for tensors in renamed for name, tensor in tensors.items()})
    return Pair(model, theirs)


@dataclass(frozen=True)
class Work:
    """Pictures of one shape with captions of one length.

    Attributes:
        x0: clean latents.
        eps: noise.
        t: times.
        context: text tokens.
        pooled: text features.
    """

    x0: Tensor
    eps: Tensor
    t: Tensor
    context: Tensor
    pooled: Tensor

    @property
    def features(self) -> TextFeatures:
        """The text as mmflow has it."""
        b, words = self.context.shape[:2]
        return TextFeatures(self.context.flatten(0, 1), torch.full((b, 1), words), self.pooled)

    def ours(self, model: MMDiT) -> Tensor:
        """Our network's output, (B, C, H, W)."""
        return model((self.x0[:, :, None],), self.t, Conditioning(self.features))[0][:, :, 0]

    def theirs(self, model: nn.Module) -> Tensor:
        """Theirs."""
        out: Tensor = model(self.x0, self.context, self.pooled, 1000 * self.t, return_dict=False)[0]
        return out

    def flops(self, model: MMDiT, backward: bool = True) -> int:
        """Of one pass through the network."""
        b, side = len(self.x0), self.x0.shape[-1] // 2
        return step_flops(model, [Load(b, 1, side * side, self.context.shape[1])], backward).total


def work(samples: int, side: int, words: int, model: MMDiT, device: torch.device) -> Work:
    """Random pictures of side x side latents with captions of so many tokens."""
    g = torch.Generator().manual_seed(samples + side + words)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g).to(device)

    return Work(
        normal(samples, model.in_channels, side, side),
        normal(samples, model.in_channels, side, side),
        torch.rand(samples, generator=g).to(device),
        normal(samples, words, model.context_width),
        normal(samples, model.pooled_width),
    )


def same(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Whether both sides do the same.

    Raises:
        AssertionError: if they do not; then no figure would mean anything.
    """
    worst = (found - expected).abs().max() / expected.abs().max()
    assert worst < tolerance, f"the two sides differ by {worst:.2g}"
