"""Scores of the shapes world: a quick round at the end of a run, the full protocol by `validate` and `test`."""

import json
from pathlib import Path
from typing import Any, final

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmflow.batch import request_batches
from mmflow.export import write_media
from mmflow.metrics.protocol import IID, Frames, Protocol, Question, results
from mmflow.train.goodput import counted_as
from mmflow.train.predictions import gather
from mmflow.train.preemption import is_stopped
from mmflow.train.progress import stop_bar
from mmflow.train.run import write_json
from mmflow.train.store_fill import filled_store, shapes_prompts

SHOWN = (
    "geneval/overall",
    "geneval/single_object",
    "geneval/two_object",
    "geneval/counting",
    "geneval/colors",
    "geneval/position",
    "geneval/color_attr",
    "motion/accuracy",
)
Answers = list[tuple[Question, Frames]]


@final
class Scores(Callback):
    """Makes pictures and clips for GenEval's six tasks and motion, judges them exactly, writes `results.json`.

    Runs on data of the shapes world only; with shards it does nothing.

    Args:
        quick: what is asked at the end of `fit`; prompts 0 asks nothing.
        full: what is asked by `validate` and `test`.
        every_n_steps: optimizer steps between quick rounds during training; 0 is only at the end.
    """

    def __init__(
        self,
        quick: Protocol = Protocol(prompts=20, images=1, held_out_prompts=10),
        full: Protocol = Protocol(),
        every_n_steps: int = 0,
    ) -> None:
        self.quick, self.full, self.every_n_steps = quick, full, every_n_steps
        self._last_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.every_n_steps and step != self._last_step and step % self.every_n_steps == 0:
            self._round(trainer, pl_module, self.quick)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.quick.prompts and trainer.global_step != self._last_step and not is_stopped(trainer):
            self._report(trainer, self._round(trainer, pl_module, self.quick))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._report(trainer, self._round(trainer, pl_module, self.full))

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._report(trainer, self._round(trainer, pl_module, self.full, keep=True))

    def _round(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, protocol: Protocol, keep: bool = False
    ) -> dict[str, Any]:
        """Asks, judges, writes and logs; every rank makes its share. Empty where the data is no shapes world."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._last_step = trainer.global_step
        if not data.is_shapes:
            return {}
        stop_bar(trainer)
        questions = protocol.questions(data.world, clips=data.clip_share > 0)
        if not questions:
            return {}
        if keep:
            store = filled_store(trainer, pl_module, shapes_prompts(protocol, data))
            answers = list(zip(questions, store.media(), strict=True)) if trainer.is_global_zero else []
        else:
            answers = self._answers(trainer, pl_module, questions)
        if not trainer.is_global_zero:
            return {}
        folder = Path(trainer.default_root_dir)
        if keep:
            write_samples(folder / "samples", answers, data.fps)
        scores = results(data.world, answers, protocol.seed)
        module: Any = pl_module
        step = max(trainer.global_step, module.loaded_step)
        write_json(folder / "results.json", {"step": step, "scores": scores})
        values = {name: score["value"] for name, score in scores.items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
        return scores

    def _answers(self, trainer: pl.Trainer, pl_module: Any, questions: list[Question]) -> Answers:
        """The pictures of this rank's questions, gathered over the ranks in the order of the questions."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        own = {q.request.index: q for q in questions[trainer.global_rank :: trainer.world_size]}
        batches = list(request_batches((q.request for q in own.values()), pl_module.sampling.batch_size))
        made: list[tuple[int, Frames]] = []
        with counted_as(trainer, "evaluate"), pl_module.evaluated():
            for batch in track(batches, "scoring", disable=not trainer.is_global_zero):
                made += [(r.index, f) for r, f in zip(batch, pl_module.make(batch, data.encoders), strict=True)]
        return [(questions[index], frames) for index, frames in sorted(gather(trainer, made), key=lambda pair: pair[0])]

    def _report(self, trainer: pl.Trainer, scores: dict[str, Any]) -> None:
        if scores:
            folder = Path(trainer.default_root_dir)
            console = Console(width=None if Console().is_terminal else 140)
            console.print(table(scores))
            console.print(f"results  {folder / 'results.json'}")
            for name in ("previews", "samples"):
                newest = sorted((folder / name).glob("*"))[-1:]
                if newest:
                    console.print(f"{name:8} {newest[0]}")


def table(scores: dict[str, Any]) -> Table:
    """The scores for people: each with its interval, beside chance and the held-out splits."""
    grid = Table(title="Shapes world, judged exactly", title_justify="left")
    for column in ("score", "value", "95 % interval", "n", "chance", "held out (training never showed these)"):
        grid.add_column(column, justify="left" if column in ("score",) or "held" in column else "right")
    for name in SHOWN:
        if name in scores:
            s = scores[name]
            held = "\n".join(
                f"{split} {x['value']:.2f} ({x['low']:.2f} - {x['high']:.2f})"
                for split, x in s.get("held_out", {}).items()
            )
            interval = f"{s['low']:.2f} - {s['high']:.2f}"
            chance = f"{s['chance']:.2f}" if "chance" in s else ""
            grid.add_row(name, f"{s['value']:.3f}", interval, str(s["n"]), chance, held)
    return grid


def write_samples(root: Path, answers: Answers, fps: float) -> None:
    """GenEval's layout, `00000/metadata.jsonl` and `00000/samples/0000.png` per prompt, one root per split."""
    counts: dict[tuple[str, str, str], tuple[int, int]] = {}
    prompts: dict[str, int] = {}
    for question, frames in answers:
        name = question.split, question.metadata["tag"], question.metadata["prompt"]
        if name not in counts:
            counts[name] = (prompts.get(question.split, 0), 0)
            prompts[question.split] = counts[name][0] + 1
        prompt, image = counts[name]
        counts[name] = (prompt, image + 1)
        folder = root / ("iid" if question.split == IID else question.split) / f"{prompt:05d}"
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        (folder / "metadata.jsonl").write_text(json.dumps(dict(question.metadata)) + "\n")
        write_media(folder / "samples" / f"{image:04d}", frames, fps)
