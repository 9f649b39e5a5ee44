"""In the loop: the same prompts again and again, raw and averaged weights, judged within a share of the time."""

import shutil
import time
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from mmflow.batch import Request, request_batches
from mmflow.metrics.interval import Interval
from mmflow.metrics.loss_surface import Kind
from mmflow.metrics.protocol import Protocol
from mmflow.metrics.proxy import AbstractProxy
from mmflow.metrics.signal import AbstractSignal, Made, ProxySignal, ShapesSignal, digest
from mmflow.metrics.signal_file import Round, folder_of, read_rounds
from mmflow.train.predictions import gather
from mmflow.train.preemption import RECEIVED, STOP
from mmflow.train.signal_media import show, write_round
from mmflow.train.throughput import Throughput
from mmflow.train.validation import spread

Asked = list[tuple[Request, dict[str, Any]]]


@final
class Signals(Callback):
    """Every so many steps: previews of EMA and raw weights, every proxy with its interval, a table prompt x step.

    In the run directory `signals/step-000001000/`, and in W&B. Pictures are made by all ranks, each its share; judges
    are shared out too. A round that would bring all rounds over `max_share` of the training time is left out, and a run
    that is asked to stop leaves a round at the next batch of pictures. In the shapes world its exact scores are always
    among the signals.

    Args:
        every_n_steps: optimizer steps between rounds; 0 makes none. Where it is `trainer.val_check_interval`, loss and
            scores are of the same checkpoints and can be correlated.
        scorers: proxies that give a number per sample: CLIP score, PickScore and the like. One whose weights are absent
            is left out, with a line.
        judges: whatever else gives names, values and intervals of a set of samples.
        prompts: a file of prompts; without it those of the shapes world's tasks, or captions of validation samples.
        num_prompts: shapes world: prompts per task; else pictures.
        num_clips: clips of validation samples' captions, where there is no file of prompts.
        max_share: of the time since training began that rounds may take.
        shown: prompts in the table of prompts and steps.
        seed: of the pictures.
    """

    def __init__(  # noqa: PLR0913 - the signature is the configuration
        self,
        every_n_steps: int = 0,
        scorers: list[AbstractProxy] = [],  # noqa: B006 - jsonargparse shows the default; it is never changed
        judges: list[AbstractSignal] = [],  # noqa: B006
        prompts: str | None = None,
        num_prompts: int = 12,
        num_clips: int = 4,
        max_share: float = 0.05,
        shown: int = 8,
        seed: int = 0,
    ) -> None:
        if min(every_n_steps, num_prompts, num_clips, shown) < 0:
            raise ValueError(f"signals need numbers >= 0, got {every_n_steps}, {num_prompts}, {num_clips} and {shown}")
        if not 0 < max_share <= 1:
            raise ValueError(f"signals.max_share must lie in (0, 1], got {max_share}")
        self.every_n_steps, self.prompts, self.seed = every_n_steps, prompts, seed
        self.candidates = [*map(ProxySignal, scorers), *judges]
        self.num_prompts, self.num_clips, self.max_share, self.shown = num_prompts, num_clips, max_share, shown
        self._last_step = -1
        self._judges: list[AbstractSignal] = []
        self._asked: Asked = []
        self._clock = {"trained": 0.0, "spent": 0.0, "longest": 0.0, "left_out": 0.0}
        self._started = time.monotonic()

    # --- when ------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step
        self._started = time.monotonic()
        if not self.every_n_steps:
            return
        self._prepare(trainer)
        run, step = Path(trainer.default_root_dir), trainer.global_step
        done = trainer.strategy.broadcast(list(read_rounds(run)))
        if trainer.is_global_zero:
            for later in done:
                if later > step:
                    shutil.rmtree(folder_of(run, later))
        if step and step % self.every_n_steps == 0 and step not in done:  # stopped after the checkpoint, before this
            self._due(trainer, pl_module, step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if not self.every_n_steps or step == self._last_step or step % self.every_n_steps:
            return
        self._last_step = step
        self._due(trainer, pl_module, step)

    def _due(self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: int) -> None:
        """A round, if there is time for one."""
        if trainer.strategy.broadcast(self._has_time()):
            self._round(trainer, pl_module, step)
        else:
            self._clock["left_out"] += 1
            if trainer.is_global_zero and self._clock["left_out"] == 1:
                print(
                    f"signals: the round at step {step} is left out: it would take more than {self.max_share:.0%} of "
                    f"the time (a round takes {self._clock['longest']:.0f} s). More: --signals.max_share"
                )

    def _elapsed(self) -> float:
        return self._clock["trained"] + time.monotonic() - self._started

    def _has_time(self) -> bool:
        """Whether one more round, as long as the longest so far, keeps within the share; the first one tells."""
        ahead, spent = self._clock["longest"], self._clock["spent"]
        return spent == 0 or spent + ahead <= self.max_share * (self._elapsed() + ahead)

    @property
    def share(self) -> float:
        """Of the time since training began that rounds took."""
        return self._clock["spent"] / max(self._elapsed(), 1e-9)

    def state_dict(self) -> dict[str, Any]:
        return {**self._clock, "trained": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._clock = dict(state_dict)

    # --- what ------------------------------------------------------------------------------------------------------

    def _prepare(self, trainer: pl.Trainer) -> None:
        """Settles what is asked and who judges."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        own: list[AbstractSignal] = [ShapesSignal(data.world)] if data.is_shapes and self.prompts is None else []
        self._judges = own
        for judge in self.candidates:
            reason = judge.absent()
            if reason is None:
                self._judges.append(judge)
            elif trainer.is_global_zero:
                print(f"signals: {judge.name} is left out: {reason}")
        if self.prompts is not None:
            self._asked = [(request, {}) for request in data.requests(self.prompts)]
        elif data.is_shapes:
            protocol = Protocol(self.num_prompts, images=1, held_out_prompts=0, seed=self.seed)
            questions = protocol.questions(data.world, clips=data.clip_share > 0)
            self._asked = [(each.request, dict(each.metadata)) for each in questions]
        else:
            requests = data.mix.preview_requests(self.num_prompts, self.num_clips, self.seed)
            self._asked = [(request, {}) for request in requests]

    def _round(self, trainer: pl.Trainer, pl_module: Any, step: int) -> None:
        began = time.monotonic()
        samples: dict[Kind, list[Made]] = {}
        for kind in pl_module.kinds():
            made = self._make(trainer, pl_module, kind)
            if made is None:
                if trainer.is_global_zero:
                    print(f"signals: the round at step {step} is left: the run is to stop")
                return
            samples[kind] = made
        found = self._judge(trainer, samples)
        readings: dict[str, dict[str, Interval]] = {kind: {} for kind in samples}
        for (kind, values), _ in found:
            readings[kind] |= values
        seconds = time.monotonic() - began
        self._clock["spent"] += seconds
        self._clock["longest"] = max(self._clock["longest"], seconds)
        if trainer.is_global_zero:
            lower = sorted({name for _, names in found for name in names})
            prompts = {str(i): self._asked[i][0].prompt for i in spread(len(self._asked), self.shown)}
            whole = Round(step, readings, tuple(lower), self._identity(pl_module), seconds, self.share, prompts)
            self._keep(trainer, whole, samples)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Throughput):
                callback.pause()

    def _make(self, trainer: pl.Trainer, pl_module: Any, kind: Kind) -> list[Made] | None:
        """All samples of one kind of weights, on every rank; None if the run is asked to stop meanwhile.

        Ranks go on from batch to batch together, so that they agree on that.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        requests = [request for request, _ in self._asked]
        shares = [
            list(request_batches(requests[rank :: trainer.world_size], pl_module.sampling.batch_size))
            for rank in range(trainer.world_size)
        ]
        own, frames = shares[trainer.global_rank], []
        with pl_module.evaluated(kind):
            for turn in range(max(map(len, shares))):
                if turn < len(own):
                    made = pl_module.make(own[turn], data.encoders)
                    frames += [(request.index, each) for request, each in zip(own[turn], made, strict=True)]
                if trainer.strategy.reduce_boolean_decision(is_to_stop(trainer), all=False):
                    return None
        by_index = dict(gather(trainer, frames))
        return [Made(request, by_index[request.index], metadata) for request, metadata in self._asked]

    def _judge(
        self, trainer: pl.Trainer, samples: dict[Kind, list[Made]]
    ) -> list[tuple[tuple[Kind, dict[str, Interval]], list[str]]]:
        """All readings, and the names of those where less is better, on every rank; judges are dealt to the ranks."""
        found = []
        for kind, judge in [(k, j) for k in samples for j in self._judges][trainer.global_rank :: trainer.world_size]:
            judge.to(str(trainer.strategy.root_device))
            values = judge(samples[kind])
            judge.to("cpu")
            found.append(((kind, values), list(values) if judge.lower_is_better else []))
        return gather(trainer, found)

    def _identity(self, pl_module: Any) -> dict[str, Any]:
        """What the scores depend on beside the weights."""
        sampling = {k: v for k, v in vars(pl_module.sampling).items() if k not in ("weights", "batch_size")}
        made = {"asked": digest([r for r, _ in self._asked]), "n": len(self._asked), "sampling": repr(sampling)}
        return {"samples": made, **{judge.name: judge.identity() for judge in self._judges}}

    def _keep(self, trainer: pl.Trainer, done: Round, samples: dict[Kind, list[Made]]) -> None:
        """Pictures and scores to the run directory and to every logger."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        run = Path(trainer.default_root_dir)
        write_round(run, done, {str(kind): made for kind, made in samples.items()}, data.fps, self.shown)
        values = {"signals/share": done.share}
        for kind, scores in done.scores.items():
            for name, score in scores.items():
                title = f"signals/{kind}/{name}"
                values |= {title: score.value, f"{title}/low": score.low, f"{title}/high": score.high}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=done.step)
        show(trainer.loggers, run, done)
        kind = next(iter(done.scores))
        best = ", ".join(
            f"{n} {s.value:.3f} ({s.low:.3f} - {s.high:.3f})" for n, s in list(done.scores[kind].items())[:3]
        )
        print(
            f"signals: step {done.step}, {kind}: {best or 'no judge'}; "
            f"{done.seconds:.0f} s, rounds take {done.share:.1%} of the time"
        )


def is_to_stop(trainer: pl.Trainer) -> bool:
    """Whether somebody has asked this process to end the run."""
    asked = trainer.should_stop or trainer.received_sigterm or RECEIVED
    return bool(asked) or (Path(trainer.default_root_dir) / STOP).exists()
