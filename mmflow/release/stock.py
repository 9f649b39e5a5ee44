"""For the stock SD3 programs: a diffusers folder, or one file."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

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
    tensors = published(shape, "diffusers", weights, dtype)
    write_folder(out / "transformer", tensors, header(trained.facts, shape, "diffusers"))
    latent = trained.data.encoders.latent_shape(1, trained.data.resolution, trained.data.resolution)[1:]
    write_json(out / "transformer" / "config.json", transformer_config(shape, max(latent)))
    write_json(
        out / "scheduler" / "scheduler_config.json",
        {"_class_name": SCHEDULER, "num_train_timesteps": 1000, "shift": trained.module.objective.shift.value},
    )
    components = copy_frozen(trained.data.encoders, out)
    components |= {"transformer": ["diffusers", "SD3Transformer2DModel"], "scheduler": ["diffusers", SCHEDULER]}
    write_json(
        out / "model_index.json",
        {"_class_name": "StableDiffusion3Pipeline", "_diffusers_version": "0.36.0", **dict(sorted(components.items()))},
    )
    (out / "README.md").write_text(readme(replace(trained.facts, notes=notes), stock_usage(trained, out.name)))
    return [f"{out}: {describe(tensors)}", *trained.facts.verdict, *notes]


def copy_frozen(codec: Any, out: Path) -> dict[str, list[str | None]]:
    """The frozen networks' folders into `out`, and what model_index.json says of them."""
    found: dict[str, list[str | None]] = {}
    for name, (folder, library, class_name) in {**codec.autoencoder.stock_folder, **codec.text.stock_folders}.items():
        found[name] = [library, class_name]
        if folder is not None:
            copy_folder(folder, out / name)
    return found


def copy_folder(source: Path, target: Path) -> None:
    """Copies a folder's files; weights are linked where the disk allows it, since they are large and never changed."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            try:
                os.link(file.resolve(), target / file.name)
                continue
            except OSError:
                pass
        if file.is_file():
            shutil.copyfile(file, target / file.name)


def stock_usage(trained: Trained, name: str) -> str:
    """Code that makes the run's own pictures in diffusers."""
    steps, scale, _ = trained.facts.sampling
    return (
        "import torch\n"
        "from diffusers import StableDiffusion3Pipeline\n\n"
        f'pipe = StableDiffusion3Pipeline.from_pretrained("{name}", torch_dtype=torch.bfloat16).to("cuda")\n'
        f"steps = {steps}\n"
        "# Without sigmas the scheduler shifts twice; so they are those that the run was sampled with.\n"
        f'picture = pipe("...", guidance_scale={scale}, sigmas=[1 - i / steps for i in range(steps)]).images[0]'
    )
