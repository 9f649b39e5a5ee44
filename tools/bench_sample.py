"""Sampling against StableDiffusion3Pipeline: group `sample` of tools/bench.py.

28 Euler steps, guidance 5, the same depth-4 weights, noise, autoencoder and text features in the `sd3` layout (77 + 256
tokens of width 4096), from features to pixels, 256 x 256, one picture and eight at a time. Both run in fp32, as mmflow
samples; the autoencoder is a tiny random one on both sides, so that the figure is the sampler's. Text encoders are on
neither side.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from bench_measure import Figure, Setting, interleaved
from bench_models import pair
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from torch import Tensor

from mmflow import draws
from mmflow.batch import Known, Request, TextFeatures
from mmflow.flow.objective import FlowObjective
from mmflow.flow.shift import ConstantShift
from mmflow.model.mmdit import MMDiT
from mmflow.planning.flops import Load, step_flops
from mmflow.train.sampling import Sampling, make

DEPTH, STEPS, SCALE, SHIFT, SIZE, WORDS = 4, 28, 5.0, 3.0, 256, 77 + 256
PICTURES = {1: 7, 8: 3}
"""At a time -> repeats at most: eight take half a minute a side on one thread."""
REACH, EQUAL = 1.25, 1e-3


@dataclass
class Codec:
    """A tiny autoencoder, and features instead of text encoders."""

    network: AutoencoderKL
    model: MMDiT
    made: Tensor | None = None

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """With the stride 8."""
        return 16, frames, height // 8, width // 8

    def features(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Of a prompt: random numbers that depend on it."""
        g = torch.Generator().manual_seed(sum(prompt.encode()))
        return torch.randn(WORDS, self.model.context_width, generator=g), torch.randn(
            self.model.pooled_width, generator=g
        )

    def encode_text(self, prompts: list[str], device: torch.device) -> TextFeatures:
        """Padded, so of one length."""
        context, pooled = zip(*(self.features(prompt) for prompt in prompts), strict=True)
        return TextFeatures(torch.cat(context), torch.full((len(prompts), 1), WORDS), torch.stack(pooled))

    def encode_known(self, pixels: Tensor, unknown: Tensor) -> Known:
        """Nothing is given here."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels, which are kept for the comparison."""
        config: Any = self.network.config
        raw = latents[:, :, 0] / config.scaling_factor + config.shift_factor
        self.made = self.network.decode(raw).sample[:, :, None]
        return self.made


def autoencoder() -> AutoencoderKL:
    """Random, of the stride 8 and 16 channels, and small."""
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()


def sample(setting: Setting) -> list[Figure]:
    """One picture at a time, and eight."""
    return [
        sampled(replace(setting, repeats=min(setting.repeats, repeats)), batch) for batch, repeats in PICTURES.items()
    ]


def sampled(setting: Setting, batch: int) -> Figure:
    """So many pictures at a time."""
    both = pair(DEPTH, setting.device, qk_norm=True)
    codec = Codec(autoencoder().to(setting.device), both.ours.eval())
    pipe = StableDiffusion3Pipeline(
        transformer=both.theirs.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT),
        vae=codec.network,
        **{f"{part}{n}": None for part in ("tokenizer", "text_encoder") for n in ("", "_2", "_3")},
    ).to(setting.device)
    pipe.set_progress_bar_config(disable=True)
    objective, prompts = FlowObjective(shift=ConstantShift(SHIFT)), [f"prompt {n}" for n in range(batch)]
    requests = [Request(n, prompt, 5, 1, SIZE, SIZE) for n, prompt in enumerate(prompts)]
    kept: dict[str, Tensor] = {}

    def ours(steps: int) -> None:
        make(both.ours, objective, codec, requests, Sampling(steps, SCALE), setting.device)
        assert codec.made is not None
        kept["ours"] = (codec.made[:, :, 0] / 2 + 0.5).clamp(0, 1)

    def theirs(steps: int) -> None:
        kept["theirs"] = stock(pipe, codec, prompts, steps, setting.device)

    for warm_up in (ours, theirs):
        warm_up(2)
    pairs = interleaved(setting, partial(ours, STEPS), partial(theirs, STEPS), warm_up=0)
    worst = float((kept["ours"] - kept["theirs"]).abs().max())
    assert worst <= EQUAL, f"the pictures differ by {worst:.2g}, more than {EQUAL}"
    flops = STEPS * step_flops(both.ours, [Load(2 * batch, 1, (SIZE // 16) ** 2, WORDS)], backward=False).total
    about: dict[str, Any] = {"flops": flops, "peak": setting.peak("fp32").flops}
    note = f"{STEPS} steps; pictures equal to {worst:.1g}"
    return Figure(f"{batch} at a time, fp32", *pairs, REACH, **about, note=note)


def stock(pipe: StableDiffusion3Pipeline, codec: Codec, prompts: list[str], steps: int, device: torch.device) -> Tensor:
    """The pipeline's pictures in [0, 1]."""
    context, pooled = (torch.stack(x).to(device) for x in zip(*(codec.features(p) for p in prompts), strict=True))
    null, null_pooled = codec.features("")
    shape = codec.latent_shape(1, SIZE, SIZE)
    noise = torch.stack([draws.normal(5, "eps", ("prompt", p), 0, shape)[:, 0] for p in prompts])
    images: Tensor = pipe(
        prompt_embeds=context,
        pooled_prompt_embeds=pooled,
        negative_prompt_embeds=null.expand(len(prompts), -1, -1).to(device),
        negative_pooled_prompt_embeds=null_pooled.expand(len(prompts), -1).to(device),
        latents=noise.to(device),
        height=SIZE,
        width=SIZE,
        guidance_scale=SCALE,
        sigmas=[1 - i / steps for i in range(steps)],
        output_type="pt",
    ).images
    return images
