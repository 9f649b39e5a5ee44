"""From prompts to what is to be made: sizes and seeds filled in, files read, and all that cannot be made refused."""

from pathlib import Path
from typing import Any

from mmflow.batch import Request
from mmflow.data.given import read_given
from mmflow.data.legal import LatentShape, Shape, check_shape
from mmflow.data.prompts import MEDIA, PromptItem, read_prompts


def read_requests(source: str, size: Shape, seed: int, fps: float) -> list[Request]:
    """The prompts that `source` names, with the run's own size and seed where they say none.

    Args:
        source: a prompt, a .txt or a .jsonl; see `read_prompts`. Files that a .jsonl names lie beside it.
        size: (T, H, W) in pixels.
        seed: of what is made.
        fps: of clips; a given one is read at that rate.

    Raises:
        ValueError: if prompts, or files that they name, are bad.
    """
    folder = Path(source).parent if source.lower().endswith(".jsonl") and "\n" not in source else Path()
    return [_request(index, item, size, seed, fps, folder) for index, item in enumerate(read_prompts(source))]


def _request(index: int, item: PromptItem, size: Shape, seed: int, fps: float, folder: Path) -> Request:
    shape = item.frames or size[0], item.height or size[1], item.width or size[2]
    named = {name: getattr(item, name) for name in MEDIA}
    media = {name: folder / path for name, path in named.items() if path is not None}
    return Request(
        index,
        item.prompt,
        seed if item.seed is None else item.seed,
        *shape,
        num_steps=item.num_steps,
        guidance_scale=item.guidance_scale,
        negative_prompt=item.negative_prompt,
        given=read_given(f"prompt {index} ({item.prompt!r})", shape, fps, media),
    )


def check_request(request: Request, latent_shape: LatentShape, backbone: Any) -> None:
    """Passes if it can be made.

    Args:
        request: what is to be made.
        latent_shape: the autoencoder's.
        backbone: the network.

    Raises:
        ValueError: if autoencoder or network cannot take its shape, or the network takes no known parts.
    """
    name = f"prompt {request.index} ({request.prompt!r})"
    check_shape((request.frames, request.height, request.width), latent_shape, backbone.check_shape, name)
    if request.given is not None and not backbone.takes_known:
        raise ValueError(
            f"{name} gives {', '.join(request.given.files) or 'known parts'}, and this model has no input for known "
            "parts. Train one that has: --model.backbone.design.known true with data.known shares, from these weights "
            "by --model.init_from"
        )
