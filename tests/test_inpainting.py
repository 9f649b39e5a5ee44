"""diffusers' SD3 inpainting pipeline and ours: the same channels, weights, noise and steps, and the same picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3InpaintPipeline,
)
from PIL import Image

from mmflow import Pipeline, draws
from mmflow.encoders.bundle import Encoders
from mmflow.encoders.diffusers_autoencoder import DiffusersAutoencoder
from mmflow.encoders.text import HashedWords
from mmflow.flow.objective import FlowObjective
from mmflow.flow.shift import ConstantShift
from mmflow.model.design import Design
from mmflow.model.layouts import Shape, rules
from mmflow.model.mmdit import MMDiT
from mmflow.train.sampling import Sampling

CHANNELS, CONTEXT, POOLED, TABLE, DEPTH = 16, 32, 24, 12, 2
SIZE, STEPS, SCALE, SHIFT, SEED = (32, 48), 4, 3.0, 3.0, 5
PROMPT, NEGATIVE = "a red circle", "two blue stars"  # of one length: the stock pipeline pads nothing here


def autoencoder(folder: Path) -> AutoencoderKL:
    """Tiny and random. Its spread is nothing, since diffusers draws from the posterior; its shift is 0, since the
    inpainting pipeline does not add it when it decodes.
    """
    torch.manual_seed(3)
    network = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=CHANNELS,
        scaling_factor=1.5,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    network.encoder.conv_out.weight.data[CHANNELS:] = 0
    network.encoder.conv_out.bias.data[CHANNELS:] = -30
    network.save_pretrained(folder)
    return network.eval()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[StableDiffusion3InpaintPipeline, Pipeline]:
    folder = tmp_path_factory.mktemp("vae")
    vae = autoencoder(folder)
    theirs = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=2 * CHANNELS + 1,
        num_layers=DEPTH,
        num_attention_heads=DEPTH,
        attention_head_dim=64,
        joint_attention_dim=CONTEXT,
        caption_projection_dim=64 * DEPTH,
        pooled_projection_dim=POOLED,
        out_channels=CHANNELS,
        pos_embed_max_size=TABLE,
        qk_norm=None,
    )
    g = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.data = 0.07 * torch.randn(parameter.shape, generator=g)
    design = Design(position_table=TABLE, known=True)
    ours = MMDiT(DEPTH, CHANNELS, CONTEXT, POOLED, 2, None, 16, qk_norm=False, design=design)
    shape = Shape(DEPTH, 64 * DEPTH, 2 * CHANNELS + 1, CHANNELS, 2, CONTEXT, POOLED, False, 0, TABLE)
    state = theirs.state_dict()
    ours.load_state_dict({r.ours: r.to_ours([state[n] for n in r.theirs]) for r in rules(shape, "diffusers")})
    stock = StableDiffusion3InpaintPipeline(
        theirs, FlowMatchEulerDiscreteScheduler(shift=SHIFT), vae, None, None, None, None, None, None
    )
    stock.set_progress_bar_config(disable=True)
    codec = Encoders(DiffusersAutoencoder(str(folder)), HashedWords(POOLED, CONTEXT - POOLED))
    sampling = Sampling(STEPS, SCALE, known="free", null_known="kept")
    return stock, Pipeline(ours, FlowObjective(shift=ConstantShift(SHIFT)), codec, sampling, SIZE)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    white = np.zeros(SIZE, np.uint8)
    white[8:24, 16:40] = 255  # whole latents: the stock pipeline looks at one pixel of each
    return Image.fromarray(white)


def their_picture(stock: StableDiffusion3InpaintPipeline, codec: Encoders, picture: Image.Image, mask: Image.Image):
    text, null = codec.encode_text([PROMPT]), codec.encode_text([NEGATIVE])
    noise = draws.normal(SEED, "eps", ("prompt", PROMPT), 0, codec.latent_shape(1, *SIZE))
    return stock(
        prompt_embeds=text.context[None],
        pooled_prompt_embeds=text.pooled,
        negative_prompt_embeds=null.context[None],
        negative_pooled_prompt_embeds=null.pooled,
        image=picture,
        mask_image=mask,
        latents=noise[:, 0][None],
        height=SIZE[0],
        width=SIZE[1],
        strength=1.0,
        guidance_scale=SCALE,
        sigmas=[1 - i / STEPS for i in range(STEPS)],
        output_type="np",
    ).images[0]


def test_the_stock_inpainting_pipeline_makes_our_picture(pair, picture: Image.Image, mask: Image.Image) -> None:
    stock, ours = pair
    expected = their_picture(stock, ours.codec, picture, mask)
    (made,) = ours(PROMPT, SEED, negative_prompt=NEGATIVE, image=picture, mask=mask)
    # Half a step of 8 bits, and the 1e-4 that the pictures of the two may differ by.
    assert np.abs(made[0] / 255 - expected).max() <= 0.5 / 255 + 1e-4
    assert expected.std() > 0.05
    (other,) = ours(PROMPT, SEED, negative_prompt=NEGATIVE, image=picture.rotate(180), mask=mask)
    assert np.abs(made.astype(int) - other).max() > 10, "what is given is seen"


def test_held_it_gives_back_what_it_was_given(pair, picture: Image.Image, mask: Image.Image) -> None:
    _, ours = pair
    (made,) = ours(PROMPT, SEED, negative_prompt=NEGATIVE, image=picture, mask=mask, known="held")
    kept = np.asarray(mask) == 0
    assert np.array_equal(made[0][kept], np.asarray(picture)[kept])
    assert np.abs(made[0][~kept].astype(int) - np.asarray(picture)[~kept]).mean() > 10
