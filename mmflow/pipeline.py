"""From Python: load a run and make pictures and clips with the command line's own sampler."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import UInt8

from mmflow.batch import Codec, Request, request_batches
from mmflow.data.given import Media, read_given
from mmflow.data.requests import check_request
from mmflow.flow.objective import FlowObjective
from mmflow.model.mmdit import AbstractBackbone
from mmflow.train.sampling import Sampling, make
from mmflow.train.weights import check_weights, find_checkpoint, load_weights

Frames = UInt8[np.ndarray, "T H W 3"]


@final
class Pipeline:
    """A trained network with its objective, its frozen encoders, and the run's own sizes and sampling settings.

    Pipeline.load("runs/quickstart")(["a red circle", "a blue square moving left"], seed=0)
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        objective: FlowObjective,
        codec: Codec,
        sampling: Sampling,
        size: tuple[int, int],
        fps: float = 8.0,
    ) -> None:
        self.backbone, self.objective, self.codec, self.sampling = backbone.eval(), objective, codec, sampling
        self.height, self.width = size
        self.fps = fps

    @classmethod
    def load(cls, run: str | Path, weights: str | None = None) -> "Pipeline":
        """The pipeline of a run directory, or of a folder that tools/export.py made with its own pipeline.py.

        Args:
            run: the run directory, with `config.yaml` and `checkpoints/`; or the exported folder.
            weights: `ema` or `raw`; the run's own `sampling.weights` if not given. An exported folder has one of them.

        Raises:
            ValueError: if there is no run, no checkpoint, or the weights do not fit the configuration.
        """
        from mmflow.cli import build

        folder = Path(run)
        if not (folder / "config.yaml").is_file():
            raise ValueError(f"{folder} is no run directory: it has no config.yaml")
        module, data = build(folder / "config.yaml")
        data.encoders.load()
        if (folder / "transformer").is_dir():
            source, found = folder, load_weights(str(folder) if weights is None else f"{folder}@{weights}")
        else:
            source = find_checkpoint(folder)
            found = load_weights(f"{source}@{weights or module.sampling.weights}")
        module.init_from = None  # what the run started from need not be there any more
        module.configure_model()
        check_weights(found, module.backbone.state_dict(), str(source))
        module.backbone.load_state_dict(found)
        size = data.resolution, data.resolution
        return cls(module.backbone, module.objective, data.encoders, module.sampling, size, data.fps)

    def to(self, device: str | torch.device) -> "Pipeline":
        """The network on another device."""
        self.backbone.to(device)
        return self

    def __call__(  # noqa: PLR0913 - one call says what is to be made
        self,
        prompts: str | Sequence[str],
        seed: int = 0,
        frames: int = 1,
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str | None = None,
        image: Media | None = None,
        last_image: Media | None = None,
        video: Media | None = None,
        mask: Media | None = None,
        **sampling: Any,
    ) -> list[Frames]:
        """One picture (T=1) or clip per prompt, uint8 (T, H, W, 3).

        Args:
            prompts: one or several.
            seed: with the prompt it names the noise: the same two give the same picture.
            frames: 1 makes pictures.
            height: in pixels; the run's own if not given.
            width: in pixels; the run's own if not given.
            negative_prompt: guidance away from it instead of from the null state.
            image: first frame of the clips, or with a mask the picture that is filled in: a file, a PIL picture or
                uint8 (H, W, 3). Like the next three it needs a model with an input for known parts.
            last_image: last frame of the clips.
            video: beginning of the clips, or with a mask the clip that is filled in: a file or uint8 (T, H, W, 3).
            mask: white where image or video is made anew.
            **sampling: fields of `Sampling`, such as `num_steps` or `guidance_scale`, in place of the run's own.

        Raises:
            ValueError: if the model cannot make that size, or what is given cannot be read or does not go together.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        settings = replace(self.sampling, **sampling)
        size = height or self.height, width or self.width
        media = {"image": image, "last_image": last_image, "video": video, "mask": mask}
        given = read_given("the call", (frames, *size), self.fps, media)
        requests = [
            Request(i, text, seed, frames, *size, negative_prompt=negative_prompt, given=given)
            for i, text in enumerate(texts)
        ]
        for request in requests[:1]:
            check_request(request, self.codec.latent_shape, self.backbone)
        device = next(self.backbone.parameters()).device
        made: dict[int, Frames] = {}
        for batch in request_batches(requests, settings.batch_size):
            pictures = make(self.backbone, self.objective, self.codec, batch, settings, device)
            made |= {request.index: frames for request, frames in zip(batch, pictures, strict=True)}
        return [made[i] for i in range(len(texts))]
