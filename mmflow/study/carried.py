"""Pictures carried to video on the shapes world: which runs are made, and what each of their checkpoints can do."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mmflow.batch import Given, Piece, Request, request_batches
from mmflow.metrics.interval import wilson
from mmflow.metrics.protocol import IID, MOTION, Frames
from mmflow.metrics.shapes_scores import Metadata, correct
from mmflow.study.cell import saved_steps
from mmflow.train.run import write_json

PICTURES = "colors"
"""GenEval's task that pictures of single objects answer: the shape, in its colour."""
KNOWN = '{"none": 0.3, "first_frame": 0.7}'
BACKBONE = "--model.backbone.init_args"
Asked = list[tuple[Metadata, Request]]


@dataclass(frozen=True)
class Steps:
    """Optimizer steps of the runs; 0 leaves the last one out.

    Attributes:
        pictures: of the model of pictures.
        clips: of the model that goes on from it with pictures and clips.
        first_frame: of the model that goes on from that with first frames given.
    """

    pictures: int = 900
    clips: int = 900
    first_frame: int = 300

    def __post_init__(self) -> None:
        if min(self.pictures, self.clips) < 1 or self.first_frame < 0:
            raise ValueError(f"steps must be at least 1, or 0 for first_frame, got {self}")


def tokens_per_step(config: Path, clip_share: float | None = None) -> float:
    """Visual tokens of an optimizer step: what compute is counted in.

    Args:
        config: of a run of pictures and clips.
        clip_share: instead of the configuration's own.
    """
    from mmflow.cli import build

    module, data = build(config)
    size = data.resolution, data.resolution
    picture, clip = (
        module.backbone.check_shape(*data.encoders.latent_shape(frames, *size)[1:]) for frames in (1, data.frames)
    )
    share = data.clip_share if clip_share is None else clip_share
    return data.batch_size * ((1 - share) * picture + share * clip)


def plan(config: Path, out: Path, steps: Steps) -> dict[str, list[str]]:
    """The runs by name, each with the arguments of its `fit`; later ones start from the weights of earlier ones.

    `scratch` learns pictures and clips from nothing, in the compute of `pictures` and `carried` together.
    """
    scratch = steps.clips + round(steps.pictures * tokens_per_step(config, 0.0) / tokens_per_step(config))
    pictures_only = [f"{BACKBONE}.video_patch_size", "null", "--data.clip_share", "0"]
    own: dict[str, tuple[int, list[str]]] = {
        "pictures": (steps.pictures, pictures_only),
        "carried": (steps.clips, ["--model.init_from", str(out / "pictures"), "--interference.every_n_steps", "20"]),
        "scratch": (scratch, []),
    }
    if steps.first_frame:
        given = [f"{BACKBONE}.design.known", "true", "--data.known", KNOWN]
        own["first_frame"] = (steps.first_frame, ["--model.init_from", str(out / "carried"), *given])
    shared = ["fit", "--config", str(config), "--resume", "auto"]
    return {
        name: [*shared, "--trainer.default_root_dir", str(out / name), "--trainer.max_steps", str(number), *more]
        for name, (number, more) in own.items()
    }


def is_trained(arguments: Sequence[str]) -> bool:
    """Whether a planned run has done all its steps."""
    values = dict(pairwise(arguments))
    done = saved_steps(Path(values["--trainer.default_root_dir"]))
    return int(values["--trainer.max_steps"]) in done


class Trained:
    """A run, to be asked at any of its checkpoints.

    Args:
        run: the run directory.
    """

    def __init__(self, run: Path) -> None:
        from mmflow.cli import build

        self.run = run
        self.module, self.data = build(run / "config.yaml")
        self.module.init_from = None
        self.module.configure_model()
        self.steps = saved_steps(run)

    def load(self, step: int) -> None:
        """The averaged weights of a checkpoint."""
        from mmflow.train.weights import load_weights

        self.module.backbone.load_state_dict(dict(load_weights(f"{self.steps[step]}@ema")))

    def ask(self, task: str, number: int) -> Asked:
        """Prompts of a task with what is to be made for each; a prompt that repeats gets another seed."""
        seen: Counter[str] = Counter()
        world = self.data.world
        asked: Asked = []
        for index, metadata in enumerate(world.prompts(task, IID, number)):
            prompt, frames = metadata["prompt"], world.frames if task == MOTION else 1
            asked.append((metadata, Request(index, prompt, seen[prompt], frames, world.size, world.size)))
            seen[prompt] += 1
        return asked

    def make(self, asked: Asked, **sampling: Any) -> list[Frames]:
        """What the loaded weights make of it, in the order of the questions."""
        settings = replace(self.module.sampling, **sampling)
        made: dict[int, Frames] = {}
        for batch in request_batches((request for _, request in asked), settings.batch_size):
            frames = self.module.make(batch, self.data.encoders, settings)
            made |= {request.index: each for request, each in zip(batch, frames, strict=True)}
        return [made[request.index] for _, request in asked]

    def accuracy(self, asked: Asked, made: Sequence[Frames]) -> dict[str, float]:
        """Share of them that are right, exactly judged: value, low, high, n."""
        right = sum(
            correct(self.data.world, metadata, each)[0] for (metadata, _), each in zip(asked, made, strict=True)
        )
        return asdict(wilson(right, len(asked)))


def score(run: Path, number: int) -> list[dict[str, Any]]:
    """One row per checkpoint: its step, and its scores on pictures and, where it makes them, clips.

    Rows are kept in the run's `carried.json`; only checkpoints that it lacks are asked.
    """
    kept = run / "carried.json"
    rows: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else []
    trained = Trained(run)
    tasks = [PICTURES, *([MOTION] if trained.data.clip_share > 0 else [])]
    for step in sorted(trained.steps.keys() - {row["step"] for row in rows if row["n"] == number}):
        trained.load(step)
        row: dict[str, Any] = {"step": step, "n": number}
        for task in tasks:
            asked = trained.ask(task, number)
            row[task] = trained.accuracy(asked, trained.make(asked))
        rows = sorted([*(r for r in rows if r["step"] != step), row], key=lambda r: r["step"])
        write_json(kept, rows)
    return rows


def from_first_frames(run: Path, number: int) -> dict[str, Any]:
    """Motion from text alone and from the first frame of a clip that is right, by a run that was trained for it.

    Returns:
        `text`, `first_frame` (guidance drops what is given) and `first_frame_kept` (guidance keeps it): motion accuracy
        each; `distance`: mean absolute difference, in levels of 255, of the first frame that is made to the given one,
        where it is `held`, where it is only shown (`free`), and from `text` alone.
    """
    trained = Trained(run)
    trained.load(max(trained.steps))
    asked = trained.ask(MOTION, number)
    world = trained.data.world
    firsts = [world.illustrate(metadata, 0, i).frames[:1] for i, (metadata, _) in enumerate(asked)]
    given = [
        (metadata, replace(request, given=Given((Piece(0, first, np.zeros(first.shape[:3], bool)),))))
        for (metadata, request), first in zip(asked, firsts, strict=True)
    ]
    made = {
        "text": trained.make(asked),
        "first_frame": trained.make(given, null_known="dropped"),
        "first_frame_kept": trained.make(given, null_known="kept"),
        "free": trained.make(given, known="free"),
    }

    def distance(name: str) -> float:
        pairs = zip(made[name], firsts, strict=True)
        return float(np.mean([np.abs(a[:1].astype(int) - b).mean() for a, b in pairs]))

    found: dict[str, Any] = {name: trained.accuracy(asked, clips) for name, clips in made.items() if name != "free"}
    found["distance"] = {"held": distance("first_frame"), "free": distance("free"), "text": distance("text")}
    return found
