"""Few steps against many (SD3 paper, Table 6): what a score loses, how long the way is, what a picture costs."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from mmflow.batch import Request, request_batches
from mmflow.evaluation.trace import Traced
from mmflow.metrics.clip_score import ClipScore
from mmflow.metrics.features import Floats, Frames
from mmflow.metrics.interval import bootstrap_means, interval_of
from mmflow.metrics.protocol import Protocol
from mmflow.metrics.shapes_scores import Metadata, correct
from mmflow.report.plot import depth_of
from mmflow.train.run import write_json
from mmflow.train.saved import newest

FILE = "efficiency.json"
WAY = ("path length", "straightness", "evaluations", "seconds per picture")
"""The last columns; what is given for every number of steps stands in their order."""
GENEVAL = "GenEval"


@dataclass(frozen=True)
class Asked:
    """What is measured.

    Attributes:
        steps: of the solver, rising; the last is what the others are held against.
        prompts: of each GenEval task; with shards, captions in all.
        images: per prompt.
        seed: of the choice of prompts and of the first image's noise, the same for all numbers of steps.
        guidance: scale of the scored pictures; None is each run's own.
        clip: a CLIP's folder: the score is CLIP score, as in the paper; None is GenEval's share of right pictures.
    """

    steps: tuple[int, ...] = (5, 10, 20, 50)
    prompts: int = 20
    images: int = 1
    seed: int = 0
    guidance: float | None = None
    clip: str | None = None

    def __post_init__(self) -> None:
        if len(self.steps) < 2 or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 1:
            raise ValueError(f"steps must be two or more rising numbers, got {list(self.steps)}")
        if self.prompts < 1 or self.images < 1:
            raise ValueError(f"prompts and images must be at least 1, got {self.prompts} and {self.images}")


class Subject:
    """One run with what it is asked.

    Args:
        run: the run directory.
        asked: what is measured.
        device: where the network works.
    """

    def __init__(self, run: Path, asked: Asked, device: str) -> None:
        from mmflow.cli import build
        from mmflow.pipeline import Pipeline

        self.run, self.asked = run, asked
        _, self.data = build(run / "config.yaml")
        self.pipeline = Pipeline.load(run).to(device)
        self.questions = self._questions()
        guidance = self.pipeline.sampling.guidance_scale if asked.guidance is None else asked.guidance
        self.sampling = replace(self.pipeline.sampling, guidance_scale=guidance)

    def _questions(self) -> list[tuple[Metadata, Request]]:
        asked, data = self.asked, self.data
        if data.is_shapes:
            protocol = Protocol(asked.prompts, asked.images, held_out_prompts=0, seed=asked.seed)
            return [(q.metadata, q.request) for q in protocol.questions(data.world, clips=False)]
        if asked.clip is None:
            raise ValueError(f"{self.run}: runs on shards are scored by a CLIP: give --clip")
        requests = data.mix.preview_requests(asked.prompts, 0, asked.seed)
        again = [replace(r, seed=r.seed + asked.prompts * j) for r in requests for j in range(asked.images)]
        return [({}, replace(r, index=i)) for i, r in enumerate(again)]

    def make(self, num_steps: int, **sampling: Any) -> list[Frames]:
        """The pictures of all questions, in their order."""
        from mmflow.train.sampling import make

        settings = replace(self.sampling, num_steps=num_steps, **sampling)
        device = next(self.pipeline.backbone.parameters()).device
        made: dict[int, Frames] = {}
        for batch in request_batches((request for _, request in self.questions), settings.batch_size):
            frames = make(self.pipeline.backbone, self.pipeline.objective, self.pipeline.codec, batch, settings, device)
            made |= {request.index: each for request, each in zip(batch, frames, strict=True)}
        return [made[request.index] for _, request in self.questions]

    def scores(self, pictures: Sequence[Frames]) -> Floats:
        """One per picture."""
        if self.asked.clip is not None:
            return ClipScore(self.asked.clip).score(pictures, [request.prompt for _, request in self.questions])
        return np.array(
            [
                float(correct(self.data.world, metadata, frames)[0])
                for (metadata, _), frames in zip(self.questions, pictures, strict=True)
            ]
        )


def efficiency_of_runs(runs: Sequence[Path], asked: Asked, device: str = "cpu") -> list[dict[str, Any]]:
    """One row per run, by depth; what a run's `efficiency.json` has of the same question and weights is not measured
    again.

    Raises:
        ValueError: if a run has no checkpoint, or a CLIP is asked for that is not there.
    """
    if asked.clip is not None and (reason := ClipScore(asked.clip).absent()) is not None:
        raise ValueError(f"--clip: {reason}")
    rows = []
    for run in runs:
        if not (run / "config.yaml").is_file():
            raise ValueError(f"{run} is no run directory: it has no config.yaml")
        identity = {"asked": json.loads(json.dumps(asdict(asked))), "checkpoint": checkpoint_name(run)}
        path = run / FILE
        kept = json.loads(path.read_text()) if path.is_file() else {}
        if kept.get("identity") != identity:
            kept = {"identity": identity, **efficiency(Subject(run, asked, device))}
            write_json(path, kept)
        rows.append({"run": run.name, **kept})
    return sorted(rows, key=lambda row: (row["depth"] or 0, row["run"]))


def checkpoint_name(run: Path) -> str:
    """Of a run's newest checkpoint, with its step.

    Raises:
        ValueError: if there is none.
    """
    checkpoint = newest(run)
    if checkpoint is None:
        raise ValueError(f"{run} has no checkpoint")
    named = [path.name for path in checkpoint.parent.glob("step-*.ckpt") if path.samefile(checkpoint)]
    return named[0] if named else checkpoint.name


def efficiency(subject: Subject) -> dict[str, Any]:
    """What a run's pictures lose by fewer steps, and their way at the most.

    Returns:
        run, depth, parameters, score (its name), guidance, solver, n; `steps`: by number of steps the mean score, its
        relative `drop` in percent (value, low, high: bootstrap over prompts) from that of the most steps, the mean
        absolute `change` of a pixel from that picture (of 255), `evaluations` of the velocity and `seconds` per
        picture; `path`: length and straightness, without guidance and with it.
    """
    asked = subject.asked
    most = asked.steps[-1]
    prompts = [request.prompt for _, request in subject.questions]
    found: dict[int, dict[str, Any]] = {}
    values: dict[int, Floats] = {}
    pictures: dict[int, list[Frames]] = {}
    watched = Traced(subject.sampling.solver)
    for steps in asked.steps:
        started = time.monotonic()
        pictures[steps] = subject.make(steps, solver=watched if steps == most else subject.sampling.solver)
        seconds = (time.monotonic() - started) / len(prompts)
        values[steps] = subject.scores(pictures[steps])
        evaluations = subject.sampling.solver.evaluations(steps)
        found[steps] = {"score": float(values[steps].mean()), "evaluations": evaluations, "seconds": seconds}
    for steps in asked.steps[:-1]:
        pairs = zip(pictures[steps], pictures[most], strict=True)
        found[steps]["change"] = float(np.mean([np.abs(a.astype(float) - b).mean() for a, b in pairs]))
        found[steps]["drop"] = relative_drop(values[steps], values[most], prompts)
    free = Traced(subject.sampling.solver)
    subject.make(most, solver=free, guidance_scale=1.0)
    ways = {"unguided": free, "guided": watched}
    return {
        "depth": depth_of(subject.run),
        "parameters": sum(p.numel() for p in subject.pipeline.backbone.parameters()),
        "score": GENEVAL if asked.clip is None else ClipScore(asked.clip).name,
        "guidance": subject.sampling.guidance_scale,
        "solver": type(subject.sampling.solver).__name__,
        "n": len(prompts),
        "steps": {str(steps): numbers for steps, numbers in found.items()},
        "path": {name: {"length": w.length(), "straightness": w.straightness()} for name, w in ways.items()},
    }


def relative_drop(few: Floats, many: Floats, prompts: Sequence[str]) -> dict[str, float | None]:
    """100 (C_many - C_few) / C_many in percent, with the 95 % interval of a bootstrap over prompts of both together.

    None where the score at many steps is not positive: a share of it has no meaning.

    Args:
        few: one score per picture.
        many: of the same prompts and seeds.
        prompts: of the pictures.
    """
    if many.mean() <= 0:
        return {"value": None, "low": None, "high": None}
    by_prompt: dict[str, list[tuple[float, float]]] = {}
    for prompt, a, b in zip(prompts, few.tolist(), many.tolist(), strict=True):
        by_prompt.setdefault(prompt, []).append((a, b))
    sums = np.array([np.sum(pairs, axis=0) for pairs in by_prompt.values()])
    value = float(100 * (many.mean() - few.mean()) / many.mean())
    draws = bootstrap_means(sums)
    draws = draws[draws[:, 1] > 0]
    found = interval_of(value, 100 * (draws[:, 1] - draws[:, 0]) / draws[:, 1], len(sums))
    return {"value": found.value, "low": found.low, "high": found.high}


def table6(rows: Sequence[dict[str, Any]]) -> Table:
    """Rows by depth, as in the paper's Table 6."""
    steps = [number for number in rows[0]["steps"]]
    grid = Table(title=f"Relative drop of {rows[0]['score']} in % against {steps[-1]} steps", title_justify="left")
    for name in ("run", "depth", *(f"{n} steps" for n in steps[:-1]), *WAY):
        grid.add_column(name, justify="left" if name == "run" else "right")
    for row in rows:
        grid.add_row(*cells(row))
    return grid


def cells(row: dict[str, Any]) -> list[str]:
    """Of a run's line in that table."""
    *fewer, _ = row["steps"].values()
    way = row["path"]["unguided"]
    depth = "" if row["depth"] is None else f"{row['depth']:g}"
    drops = [drop_text(numbers["drop"]) for numbers in fewer]
    evaluations = " / ".join(str(numbers["evaluations"]) for numbers in row["steps"].values())
    seconds = " / ".join(f"{numbers['seconds']:.2g}" for numbers in row["steps"].values())
    return [row["run"], depth, *drops, f"{way['length']:.2f}", f"{way['straightness']:.3f}", evaluations, seconds]


def drop_text(drop: dict[str, float | None]) -> str:
    """A drop with its interval."""
    if drop["value"] is None or drop["low"] is None or drop["high"] is None:
        return "-"
    return f"{drop['value']:.2f} ({drop['low']:.1f} to {drop['high']:.1f})"
