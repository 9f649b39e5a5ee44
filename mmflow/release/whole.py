"""Everything of a model under our own names, and a pipeline that makes it usable from diffusers."""

from functools import partial
from pathlib import Path

import torch
import yaml

from mmflow.model.archive import Outgoing, write_folder
from mmflow.model.interop import without_memory
from mmflow.model.mmdit import MMDiT
from mmflow.model.sizes import shape_of
from mmflow.release.card import describe, header, readme, write_json
from mmflow.release.trained import Trained

PIPELINE = '''"""Pictures and clips of a model trained with mmflow: pip install mmflow-mmdit."""

from dataclasses import dataclass
from pathlib import Path

from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image

from mmflow import Pipeline


@dataclass
class MmflowOutput(BaseOutput):
    """images: one PIL picture per prompt; frames: one uint8 array (T, H, W, 3) per prompt."""

    images: list
    frames: list


class MmflowPipeline(DiffusionPipeline):
    """The model's own sampler behind diffusers' call."""

    def __init__(self):
        super().__init__()
        self._inner, self._where = None, "cpu"

    def to(self, device, **_):
        self._where = device
        return self

    def __call__(
        self,
        prompt,
        seed=0,
        num_frames=1,
        height=None,
        width=None,
        negative_prompt=None,
        num_inference_steps=None,
        guidance_scale=None,
        **known,
    ):
        """`known`: image, last_image, video, mask, where the model has an input for them; see mmflow.Pipeline."""
        if self._inner is None:
            folder = self.config._name_or_path
            if not Path(folder).is_dir():
                from huggingface_hub import snapshot_download

                folder = snapshot_download(folder)
            self._inner = Pipeline.load(folder)
        given = {"num_steps": num_inference_steps, "guidance_scale": guidance_scale}
        frames = self._inner.to(self._where)(
            prompt,
            seed=seed,
            frames=num_frames,
            height=height,
            width=width,
            negative_prompt=negative_prompt,
            **known,
            **{name: value for name, value in given.items() if value is not None},
        )
        return MmflowOutput(images=[Image.fromarray(each[0]) for each in frames], frames=frames)
'''


def write_whole(trained: Trained, out: Path, dtype: torch.dtype | None) -> list[str]:
    """Everything under our own names, with the run's configuration and a pipeline for diffusers that uses mmflow."""
    backbone = trained.module.backbone
    kinds = without_memory(trained.weights)
    tensors = [
        Outgoing(name, tuple(kinds[name].shape), dtype or kinds[name].dtype, partial(trained.weights.__getitem__, name))
        for name in kinds
    ]
    write_folder(
        out / "transformer",
        tensors,
        header(trained.facts, shape_of(backbone) if isinstance(backbone, MMDiT) else None, "mmflow"),
    )
    config = yaml.safe_load(trained.config)
    config["model"]["init_from"] = None
    (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    write_json(out / "transformer" / "config.json", {"_class_name": "mmflow", **config["model"]["backbone"]})
    write_json(
        out / "model_index.json", {"_class_name": ["pipeline", "MmflowPipeline"], "_diffusers_version": "0.36.0"}
    )
    (out / "pipeline.py").write_text(PIPELINE)
    usage = (
        "from diffusers import DiffusionPipeline  # and: pip install mmflow-mmdit\n\n"
        f'pipe = DiffusionPipeline.from_pretrained("{out.name}", custom_pipeline="{out.name}",\n'
        "                                         trust_remote_code=True)\n"
        'picture = pipe("...", seed=0).images[0]'
    )
    (out / "README.md").write_text(readme(trained.facts, usage))
    return [f"{out}: {describe(tensors)}, with pipeline.py", *trained.facts.verdict]
