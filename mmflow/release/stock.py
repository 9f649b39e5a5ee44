"""For the stock SD3 programs: a diffusers folder, or one file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmflow.flow.grid import Even, ReleasedSd3
from mmflow.flow.solver import Euler
from mmflow.model.archive import write_file, write_folder
from mmflow.model.interop import transformer_config
from mmflow.model.publish import published
from mmflow.release.card import describe, header, readme, write_json
from mmflow.release.trained import Trained, picture_half
from mmflow.release.whole import write_whole
from mmflow.train.stock import obstacles

SCHEDULER = "FlowMatchEulerDiscreteScheduler"


def write_single_file(trained: Trained, out: Path, dtype: torch.dtype | None) -> list[str]:
    """One file with the network under `model.diffusion_model.`, as ComfyUI and the original code load it.

    Raises:
        ValueError: if such a file cannot hold the model.
    """
    reasons = obstacles(trained.module, trained.data.encoders)
    if reasons:
        lines = "\n  ".join(reasons)
        raise ValueError(f"a single file cannot hold this model, because of\n  {lines}\nUse --format diffusers")
    if out.suffix != ".safetensors":
        raise ValueError(f"--format single-file writes one file: name it OUT.safetensors, not {out}")
    shape, weights, notes = picture_half(trained)
    out.parent.mkdir(parents=True, exist_ok=True)
    tensors = published(shape, "single-file", weights, dtype)
    write_file(out, tensors, header(trained.facts, shape, "sd3-ref"))
    return [f"{out}: {describe(tensors)}", *trained.facts.verdict, *notes]


def write_diffusers(trained: Trained, out: Path, dtype: torch.dtype | None) -> list[str]:
    """A folder for `StableDiffusion3Pipeline.from_pretrained`, or, where that cannot hold the model, for `pipeline.py`.

    Raises:
        ValueError: if the folder is in use.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    if obstacles(trained.module, trained.data.encoders):
        return write_whole(trained, out, dtype)
    shape, weights, notes = picture_half(trained)
    notes += sampling_notes(trained)
    tensors = published(shape, "diffusers", weights, dtype)
    write_folder(out / "transformer", tensors, header(trained.facts, shape, "diffusers"))
    latent = trained.data.encoders.latent_shape(1, trained.data.resolution, trained.data.resolution)[1:]
    write_json(out / "transformer" / "config.json", transformer_config(shape, max(latent)))
    write_json(
        out / "scheduler" / "scheduler_config.json",
        {"_class_name": SCHEDULER, "num_train_timesteps": 1000, "shift": trained.module.objective.shift.value},
    )
    components, call = trained.data.encoders.write_stock(out)
    components |= {"transformer": ["diffusers", "SD3Transformer2DModel"], "scheduler": ["diffusers", SCHEDULER]}
    write_json(
        out / "model_index.json",
        {"_class_name": "StableDiffusion3Pipeline", "_diffusers_version": "0.36.0", **dict(sorted(components.items()))},
    )
    (out / "README.md").write_text(readme(replace(trained.facts, notes=notes), stock_usage(trained, out.name, call)))
    return [f"{out}: {describe(tensors)}", *trained.facts.verdict, *notes]


def stock_usage(trained: Trained, name: str, call: Any) -> str:
    """Code that makes the run's own pictures in diffusers.

    Args:
        trained: the run.
        name: of the folder.
        call: how captions are to be given (`StockCall`).
    """
    sampling = trained.module.sampling
    absent = "".join(f", {part}=None" for part in call.absent)
    lines = [
        "import torch",
        "from diffusers import StableDiffusion3Pipeline",
        "",
        f'pipe = StableDiffusion3Pipeline.from_pretrained("{name}", torch_dtype=torch.bfloat16{absent}).to("cuda")',
        f"steps = {sampling.num_steps}",
        "settings = dict(",
        f"    num_inference_steps=steps, guidance_scale={sampling.guidance_scale},",
        f"    max_sequence_length={call.max_sequence_length},",
    ]
    if not isinstance(sampling.grid, ReleasedSd3):
        lines.append("    sigmas=[1 - i / steps for i in range(steps)],  # without them the scheduler shifts twice")
    if call.null_is_zero:
        null = f"torch.zeros(1, {call.tokens}, {call.context_width}), torch.zeros(1, {call.pooled_width})"
        lines[4:4] = [f"null, null_pooled = (x.to(pipe.device, pipe.dtype) for x in ({null}))"]
        lines.append("    negative_prompt_embeds=null, negative_pooled_prompt_embeds=null_pooled,")
    return "\n".join([*lines, ")", 'picture = pipe("...", **settings).images[0]'])


def sampling_notes(trained: Trained) -> list[str]:
    """What the stock pipeline does otherwise when it makes a picture."""
    sampling = trained.module.sampling
    notes = []
    if not isinstance(sampling.solver, Euler):
        notes.append(f"The run was sampled by {type(sampling.solver).__name__}; the pipeline's scheduler is Euler's.")
    if not isinstance(sampling.grid, Even | ReleasedSd3):
        notes.append(f"The run's steps lie on the grid {sampling.grid}, which the scheduler does not have.")
    return notes
