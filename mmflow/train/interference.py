"""Do pictures and clips pull the shared weights the same way? Measured on the same packed step and the same weights."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mmflow.batch import Batch
from mmflow.train.validation import Validation

PICTURE_LOSS = "val/loss_picture"


def layer_group(name: str, depth: int) -> str:
    """Where a parameter stands: `early`, `middle` or `late` third of the blocks and its stream, or `embeddings`.

    Patchifiers are each one medium's own, and so is attention over time: they have nothing to compare.
    """
    parts = name.split(".")
    if parts[0] != "blocks":
        return "patchifiers" if "patchifier" in parts[0] else "embeddings"
    third = ("early", "middle", "late")[3 * int(parts[1]) // depth]
    return f"{third}_{parts[2]}"


def are_clips(groups: tuple[Tensor, ...], device: torch.device) -> Tensor:
    """Of each sample, whether it has more than one latent frame."""
    return torch.tensor([z.shape[2] > 1 for z in groups for _ in range(len(z))], dtype=torch.bool, device=device)


def compare(
    pictures: Mapping[str, Tensor], clips: Mapping[str, Tensor], groups: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Cosine of the two gradients and the ratio of their norms, clips' over pictures', for each group of parameters.

    Args:
        pictures: gradient of the pictures' loss by each parameter.
        clips: that of the clips' loss.
        groups: of each parameter, the group that it is counted in.

    Returns:
        `cosine` and `norm_ratio` per group, over the parameters that both reach.
    """
    sums: dict[str, Tensor] = {}
    for name, group in groups.items():
        a, b = pictures[name].double().flatten(), clips[name].double().flatten()
        products = torch.stack([a @ b, a @ a, b @ b])
        products = products * ((products[1] > 0) & (products[2] > 0))
        sums[group] = sums[group] + products if group in sums else products
    found: dict[str, dict[str, float]] = {}
    for group, values in sums.items():
        dot, square, other = values.tolist()
        if square > 0:
            found[group] = {"cosine": dot / (square * other) ** 0.5, "norm_ratio": (other / square) ** 0.5}
    return found


def gradients(loss: Tensor, named: list[tuple[str, Tensor]], scale: float) -> dict[str, Tensor]:
    """d loss / d parameter times `scale`, zero where there is none; leaves `.grad` alone."""
    found = torch.autograd.grad(loss, [p for _, p in named], retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(p) if grad is None else grad * scale
        for (name, p), grad in zip(named, found, strict=True)
    }


@contextmanager
def unobserved(density: Any) -> Iterator[None]:
    """Inside, what a density learns from the losses that it sees is forgotten again."""
    if not isinstance(density, nn.Module):
        yield
        return
    state = {name: value.clone() for name, value in density.state_dict().items()}
    yield
    density.load_state_dict(state)


def _log(trainer: pl.Trainer, values: dict[str, float]) -> None:
    """At once: Lightning's own log would drop what falls between two of its steps."""
    for logger in trainer.loggers if values else []:
        logger.log_metrics(values, trainer.global_step)


@final
class Interference(Callback):
    """Logs `interference/<group>/cosine` and `/norm_ratio` of the two gradients, and `interference/picture_loss`: the
    pictures' validation loss over what it was when the run began, which for an inflated model is the picture model's.

    Off by default. A measurement costs about a step and a half and memory for two gradients; the run itself is the same
    with it and without. With accumulation it sees the first micro-step.

    Args:
        every_n_steps: optimizer steps between measurements; 0 is off.
    """

    def __init__(self, every_n_steps: int = 0) -> None:
        if every_n_steps < 0:
            raise ValueError(f"interference.every_n_steps must be at least 0, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.start: float | None = None
        self._measured = -1

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = state_dict["start"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.every_n_steps:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not 0 < data.clip_share < 1:
            raise ValueError(
                f"interference.every_n_steps {self.every_n_steps} compares pictures with clips: data.clip_share must "
                f"lie between 0 and 1, got {data.clip_share}"
            )
        if any(isinstance(p, DTensor) for p in pl_module.parameters()):
            raise ValueError("interference is measured on whole weights: not with FSDP, whose weights are in pieces")
        if self.start is None:
            self.start = self._picture_loss(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.every_n_steps or step % self.every_n_steps or step == self._measured:
            return
        self._measured = step
        values = {
            f"interference/{group}/{name}": value
            for group, pair in self.measure(trainer, pl_module, batch).items()
            for name, value in pair.items()
        }
        _log(trainer, values)

    def measure(self, trainer: Any, module: Any, batch: Batch) -> dict[str, dict[str, float]]:
        """Both gradients of this micro-step over all ranks, compared by layer group."""
        assert batch.latents is not None
        # A compiled block's backward runs once and gives up what it needed; two are taken here.
        eager = torch.compiler.set_stance("force_eager")
        with eager, module.autocast(), unobserved(module.objective.density):
            loss, _ = module.objective(module.backbone, batch.latents, batch.conditioning, batch.u, batch.eps)
        is_clip = are_clips(batch.latents, loss.device)
        named = [(n, p) for n, p in module.backbone.named_parameters() if p.requires_grad]
        depth = 1 + max((int(n.split(".")[1]) for n, _ in named if n.startswith("blocks.")), default=0)
        sides = []
        for members in (~is_clip, is_clip):
            side = gradients((loss * members).sum(), named, 1 / max(batch.planned, 1))
            if trainer.world_size > 1:
                side = {name: trainer.strategy.reduce(grad, reduce_op="sum") for name, grad in side.items()}
            sides.append(side)
        return compare(sides[0], sides[1], {name: layer_group(name, depth) for name, _ in named})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = trainer.callback_metrics.get(PICTURE_LOSS)
        if trainer.state.fn == "fit" and self.start and now is not None:
            _log(trainer, {"interference/picture_loss": float(now) / self.start})

    @torch.no_grad()
    def _picture_loss(self, trainer: pl.Trainer, module: Any) -> float | None:
        """The pictures' validation loss of the weights that the run begins with."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        validation = Validation()
        batches: Iterable[Batch] = data.val_dataloader()
        module.backbone.eval()
        for batch in batches:
            moved = data.encoded(batch.to(module.device))
            with module.autocast():
                loss, _ = module.objective.at(module.backbone, moved.latents, moved.conditioning, moved.u, moved.eps)
            validation.add(moved, {"raw": loss})
        module.backbone.train()
        return validation.surface(trainer, trainer.global_step).scalars("raw").get(PICTURE_LOSS)
