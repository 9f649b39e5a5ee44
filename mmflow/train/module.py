"""The Lightning module: objective, network and optimizer, and nothing that is frozen."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, final

import lightning.pytorch as pl
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from mmflow.batch import Batch, Codec, Request, Whole
from mmflow.flow import formulations
from mmflow.flow.objective import FlowObjective
from mmflow.metrics.loss_surface import Kind
from mmflow.model.mmdit import AbstractBackbone
from mmflow.train.ema import find_ema
from mmflow.train.limits import share_done
from mmflow.train.optim import AbstractOptimizer, AdamW, LrSchedule
from mmflow.train.parallel import Parallel, compiles, gathered, lay_out, spread, sync_gradients
from mmflow.train.precision import Precision, choose
from mmflow.train.restart import Settings, apply_settings, count_micro_steps, settings_of
from mmflow.train.sampling import Sampling, make
from mmflow.train.validation import Validation
from mmflow.train.weights import check_weights, network_weights, start_weights


@final
class FlowModule(pl.LightningModule):
    """Trains a backbone by a flow objective on bags of pictures and clips.

    Args:
        backbone: the network to train.
        objective: path, prediction, density and shift.
        formulation: the paper's name of path, prediction and density, such as `rf/mode(1.29)`, in place of these parts
            of `objective`; the shift is still the objective's.
        optimizer: AdamW or Muon.
        lr_schedule: warm-up and decay.
        sampling: how pictures and clips are made for previews, scores and `predict`.
        precision: of the network's arithmetic in training; `auto` takes bf16 where a short probe finds it faster.
        Weights,
            optimizer state, t and loss are fp32 throughout.
        init_from: weights to start from at step 0: `RUN|file[@ema|@raw]`, or a released model (a diffusers folder, a
            single .safetensors file, or its id on the Hub); what this model has more is grown from them or new.
        parallel: how the network lies over processes, and what is recomputed or compiled.
        latent_channels: linked from the data; must equal the backbone's `in_channels`.
        context_width: linked from the data; must equal the backbone's.
        pooled_width: linked from the data; must equal the backbone's.
    """

    def __init__(  # noqa: PLR0913 - the signature is the configuration
        self,
        backbone: Callable[[], AbstractBackbone],
        objective: FlowObjective = FlowObjective(),
        formulation: str | None = None,
        optimizer: AbstractOptimizer = AdamW(),
        lr_schedule: LrSchedule = LrSchedule(),
        sampling: Sampling = Sampling(),
        precision: Precision = "auto",
        init_from: str | None = None,
        parallel: Parallel = Parallel(),
        latent_channels: int | None = None,
        context_width: int | None = None,
        pooled_width: int | None = None,
    ) -> None:
        super().__init__()
        self.objective = objective if formulation is None else formulations.instead(objective, formulation)
        if isinstance(self.objective.density, nn.Module):
            self.density = self.objective.density  # what a density has learned is part of checkpoints
        self.optimizer_recipe, self.lr_schedule = optimizer, lr_schedule
        self.sampling, self.precision, self.init_from = sampling, precision, init_from
        self.parallel, self._build = parallel, backbone
        with torch.device("meta"):
            self.backbone = backbone()
        self._check_widths(in_channels=latent_channels, context_width=context_width, pooled_width=pooled_width)
        self.autocast_dtype: torch.dtype | None = None
        self.validation = Validation()
        self.loaded_step = 0
        """Optimizer steps of the checkpoint that was loaded; a trainer that only evaluates knows of none."""
        self.start_lines: list[str] = []
        """What became of the weights that the run started from."""
        self._peak_lrs: list[float] = []
        self._settings: Settings = []
        self._step_losses: dict[str, Tensor] = {}
        self._started = time.monotonic(), 0.0
        self.gradient_norm: float | None = None
        """Of this optimizer step, where the guard has taken it."""
        self.last_samples: tuple[Any, ...] = ((), (), torch.zeros(0), torch.zeros(0))
        """Of the last micro-step: keys, visits, losses and t."""
        self.is_compiled = False
        self._is_evaluated = False
        self._predicting = ExitStack()

    def _check_widths(self, **linked: int | None) -> None:
        sources = {"in_channels": "autoencoder", "context_width": "text encoder", "pooled_width": "text encoder"}
        for name, value in linked.items():
            own = getattr(self.backbone, name)
            if value is not None and value != own:
                raise ValueError(
                    f"the data's {sources[name]} gives {name} {value}, the model takes {own}: set "
                    f"--model.backbone.{name} {value}, or choose another {sources[name]}"
                )

    def configure_model(self) -> None:
        """Lays the network out and gives it, until now without memory, its first weights."""
        if not next(self.backbone.parameters()).is_meta:
            return
        mesh = self._device_mesh
        trains = self._trainer is not None and self._trainer.training
        self.is_compiled = compiles(self.parallel, self.device.type, trains)
        lay_out(self.backbone, replace(self.parallel, compile=self.is_compiled), mesh, self.autocast_dtype)
        if mesh is None:
            self._first_weights(self.backbone, self.device)
            return
        self.backbone.to_empty(device=self.trainer.strategy.root_device)
        whole, failure = {}, None
        if self.trainer.is_global_zero:  # one process holds all weights once, in host memory
            with torch.device("meta"):
                network = self._build()
            try:
                self._first_weights(network, torch.device("cpu"))
                whole = network.state_dict()
            except (ValueError, OSError) as error:
                failure = str(error)
        failure = self.trainer.strategy.broadcast(failure)
        if failure is not None:
            raise ValueError(failure)
        spread(self.backbone, whole)

    def _first_weights(self, network: AbstractBackbone, device: torch.device) -> None:
        network.to_empty(device=device)
        network.reset_parameters()
        if self.init_from is not None:
            self.start_lines = start_weights(network, self.init_from)

    def cpu(self) -> "FlowModule":
        """To host memory. Lightning asks for it when a run ends, even one that ended before the network had weights."""
        if not next(self.backbone.parameters()).is_meta:
            super().cpu()
        return self

    def setup(self, stage: str) -> None:
        """Resolves the precision."""
        # Ranks must agree, and a probe may not.
        dtype = self.trainer.strategy.broadcast(choose(self.precision, self.device))
        self.autocast_dtype = torch.bfloat16 if dtype == "bf16" else None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.optimizer_recipe.build(self.backbone, self.autocast_dtype or torch.float32)
        self._peak_lrs = [group["lr"] for group in optimizer.param_groups]
        self._settings = settings_of(optimizer)
        return optimizer

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.latents is not None
        with self.autocast():
            loss, t = self.objective(self.backbone, batch.latents, batch.conditioning, batch.u, batch.eps)
        # The optimizer step's loss is the mean over all samples that the plan gave it, on whichever rank and in
        # whichever micro-step they were: Lightning averages over both, so each sum is scaled by their number.
        total = self.trainer.world_size * self.trainer.accumulate_grad_batches * loss.sum() / batch.planned
        self.last_samples = batch.keys, batch.visits, loss.detach(), t.detach()
        self._log_step(batch, loss.detach())
        return total

    def autocast(self) -> torch.autocast:
        """The training precision as a context."""
        # A sharded network is gathered in its dtype, and computes in it without being told.
        enabled = self.autocast_dtype is not None and self._device_mesh is None
        return torch.autocast(self.device.type, self.autocast_dtype or torch.bfloat16, enabled=enabled)

    def _log_step(self, batch: Batch, loss: Tensor) -> None:
        """Mean loss of the optimizer step over all ranks, once its last part is done.

        At steps that are logged also of its pictures and clips. Whether there were any on any rank only the device
        knows, and to ask it is to wait for it: other steps do not.
        """
        assert batch.latents is not None
        media = ["picture" if len(z) == 0 or z.shape[2] == 1 else "clip" for z in batch.latents for _ in range(len(z))]
        for name in ("picture", "clip"):
            members = torch.tensor([medium == name for medium in media], dtype=torch.bool, device=loss.device)
            pair = torch.stack([(loss * members).sum(), members.sum().to(loss.dtype)])
            self._step_losses[name] = self._step_losses.get(name, torch.zeros_like(pair)) + pair
        if not batch.closes_step:
            return
        sums = torch.stack([self._step_losses["picture"], self._step_losses["clip"]])
        if self.trainer.world_size > 1:
            sums = self.trainer.strategy.reduce(sums, reduce_op="sum")
        self._step_losses = {}
        values = {"train/loss": sums[:, 0].sum() / batch.planned}
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            by_medium = zip(("picture", "clip"), sums, strict=True)
            values |= {f"train/loss_{n}": s[0] / s[1] for n, s in by_medium if s[1] > 0}
        self.log_dict(values, batch_size=batch.planned)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the norm that the guard has taken: no second pass for it, and none at all where nothing is clipped."""
        norm, self.gradient_norm = self.gradient_norm, None
        if norm is None or not gradient_clip_val or gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif norm > gradient_clip_val:
            grads = [p.grad for p in self.backbone.parameters() if p.grad is not None]
            torch._foreach_mul_(grads, gradient_clip_val / (norm + 1e-6))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        sync_gradients(self.backbone, self.parallel, batch.closes_step)
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        factor = self.lr_schedule.factor(self.global_step, self.progress())
        for group, peak in zip(optimizer.param_groups, self._peak_lrs, strict=True):
            group["lr"] = factor * peak
        if batch.closes_step:
            self.log("lr", self._peak_lrs[0] * factor, batch_size=batch.planned)

    def progress(self) -> float:
        """Share of the run that is done, 0 for an endless one."""
        return share_done(self.trainer)

    def on_train_start(self) -> None:
        self._started = time.monotonic(), self.progress()
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        apply_settings(optimizer, self._settings)
        count_micro_steps(self.trainer)

    def seconds_left(self) -> float | None:
        """Until the end, at the pace so far; None for an endless run or before there is a pace."""
        started, before = self._started
        gained = self.progress() - before
        return None if gained <= 0 else (time.monotonic() - started) * (1 - before - gained) / gained

    @contextmanager
    def evaluated(self, weights: Kind | None = None) -> Iterator[None]:
        """Inside, the network is in evaluation mode and has the averaged weights, if it has any and they are
        asked for, here or by `sampling.weights`; a sharded one is whole on every process. To be entered and left by
        all processes together; what is inside already stays as it is.
        """
        if self._is_evaluated:
            yield
            return
        training, ema = self.backbone.training, find_ema(self.trainer) if self._trainer is not None else None
        averaged = ema is not None and bool(ema.average) and (weights or self.sampling.weights) == "ema"
        self.backbone.eval()
        self._is_evaluated = True
        try:
            with ema.swapped(self.backbone) if ema is not None and averaged else nullcontext(), gathered(self.backbone):
                yield
        finally:
            self._is_evaluated = False
            self.backbone.train(training)

    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of weights that there are."""
        ema = find_ema(self.trainer)
        return ("ema", "raw") if ema is not None and ema.average else ("raw",)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.latents is not None
        losses: dict[Kind, Tensor] = {}
        for kind in self.kinds():
            with self.evaluated(kind), self.autocast():
                losses[kind], _ = self.objective.at(
                    self.backbone, batch.latents, batch.conditioning, batch.u, batch.eps
                )
        self.validation.add(batch, losses)

    def on_validation_epoch_end(self) -> None:
        step = max(self.trainer.global_step, self.loaded_step)
        values = self.validation.finish(self.trainer, self.sampling.weights, step)
        self.log_dict(values, sync_dist=False, batch_size=1)

    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def make(
        self, requests: Sequence[Request], codec: Codec, sampling: Sampling | None = None
    ) -> list[UInt8[np.ndarray, "T H W 3"]]:
        """Pictures and clips of one shape from the evaluated network; see `sampling.make`."""
        with self.evaluated():
            return make(self.backbone, self.objective, codec, requests, sampling or self.sampling, self.device)

    def on_predict_start(self) -> None:
        # Processes have different numbers of prompts.
        self._predicting.enter_context(self.evaluated())

    def on_predict_end(self) -> None:
        self._predicting.close()

    def predict_step(self, batch: Whole, batch_idx: int) -> Whole:
        """(request, frames) pairs, the requests with the settings that they left open filled in."""
        requests = [
            replace(
                request,
                num_steps=request.num_steps or self.sampling.num_steps,
                guidance_scale=self.sampling.guidance_scale
                if request.guidance_scale is None
                else request.guidance_scale,
            )
            for request in batch
        ]
        codec: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return Whole(zip(requests, self.make(requests, codec.encoders), strict=True))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded_step = checkpoint["global_step"]
        self.configure_model()
        check_weights(network_weights(checkpoint["state_dict"]), self.backbone.state_dict(), "the checkpoint")
