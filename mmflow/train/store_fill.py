"""Makes what a sample store lacks, shared over the ranks, from the weights as they are now."""

import hashlib
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.progress import track

from mmflow.batch import request_batches
from mmflow.metrics.prompt_set import Asked, PromptSet
from mmflow.metrics.protocol import IID, Protocol
from mmflow.metrics.store import Identity, Store
from mmflow.train.ema import find_ema
from mmflow.train.progress import stop_bar

FOLDER = "store"


def shapes_prompts(protocol: Protocol, data: Any) -> PromptSet:
    """What the protocol asks of a model of the shapes world."""
    asked = []
    for question in protocol.questions(data.world, clips=data.clip_share > 0):
        held_out = {} if question.split == IID else {"held_out": question.split}
        asked.append(Asked(question.request, {**question.metadata, **held_out}))
    return PromptSet("shapes", tuple(asked))


def filled_store(trainer: pl.Trainer, module: Any, prompts: PromptSet) -> Store:
    """The store of the module's weights, sampling settings and these prompts below the run directory, whole.

    Only what is not there is made, each sample by one rank.
    """
    stop_bar(trainer)
    identity = identity_of(trainer, module, prompts)
    root = Path(trainer.default_root_dir) / FOLDER
    if trainer.is_global_zero:
        Store.create(root, identity, prompts)
    trainer.strategy.barrier()
    store = Store(root / identity.key(), identity, prompts.asked)
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    lacking = {i for i in store.missing() if i % trainer.world_size == trainer.global_rank}
    batches = list(request_batches((store.asked[i].request for i in lacking), module.sampling.batch_size))
    for batch in track(batches, "making samples", disable=not (batches and trainer.is_global_zero)):
        for request, frames in zip(batch, module.make(batch, data.encoders), strict=True):
            store.write(request.index, frames)
    trainer.strategy.barrier()
    return store


def identity_of(trainer: pl.Trainer, module: Any, prompts: PromptSet) -> Identity:
    """What the samples will depend on."""
    ema, sampling = find_ema(trainer), module.sampling
    averaged = ema is not None and bool(ema.average) and sampling.weights == "ema"
    objective = module.objective
    return Identity(
        {
            "step": max(trainer.global_step, module.loaded_step),
            "weights": "ema" if averaged else "raw",
            "digest": weights_digest(module),
        },
        {"name": prompts.name, "digest": prompts.digest(), "n": len(prompts.asked)},
        {
            "num_steps": sampling.num_steps,
            "guidance_scale": sampling.guidance_scale,
            "solver": repr(sampling.solver),
            "grid": repr(sampling.grid),
            "guidance_interval": list(sampling.guidance_interval),
            "precision": sampling.precision,
            "objective": f"{objective.path!r} {objective.prediction!r} {objective.shift!r}",
        },
    )


@torch.no_grad()
def weights_digest(module: Any) -> str:
    """First 16 digits of a SHA-256 over the weights that samples are made from, whatever file they came from."""
    total = hashlib.sha256()
    with module.evaluated():
        for name, value in sorted(module.backbone.named_parameters()):
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            total.update(f"{name} {tuple(whole.shape)}".encode())
            total.update(whole.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]
