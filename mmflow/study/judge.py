"""How good a cell's pictures are, in the shapes world: a score to maximise and a distance to minimise."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from mmflow.batch import Request
from mmflow.metrics.clip_score import ClipFeatures, ClipScore
from mmflow.metrics.distance import frechet_distance, kernel_distance
from mmflow.metrics.features import AbstractFeatures, Floats
from mmflow.metrics.interval import Z95
from mmflow.metrics.protocol import IID, Protocol, Question
from mmflow.metrics.proxy import summary
from mmflow.metrics.random_features import RandomFeatures
from mmflow.metrics.shapes_scores import Metadata, chance, score_shapes
from mmflow.shapes.prompts import GENEVAL_TASKS
from mmflow.shapes.world import World
from mmflow.study.plan import JudgeSettings

Frames = NDArray[np.uint8]
RESAMPLES = 40


@final
@dataclass(frozen=True)
class ShapesJudge:
    """GenEval's overall score, exactly detected, and distances to true pictures of the same prompts.

    The distances are on frozen random-convolution features. The reference is one true picture for every picture asked
    for, drawn by the world from the same prompt. The kernel distance is unbiased; Frechet distance of a few hundred
    pictures is mostly bias, the same for all, and moves little. With a CLIP there are CLIP score and the same two
    distances on its features beside them.
    """

    world: World
    settings: JudgeSettings
    features: RandomFeatures = field(default_factory=RandomFeatures)

    def identity(self) -> dict[str, Any]:
        """What numbers of this judge must be compared by."""
        identity = {
            "score": "shapes-world GenEval overall",
            "distance": f"kernel and Frechet on {self.features.name}",
            "prompts": self.settings.prompts,
            "images": self.settings.images,
            "seed": self.settings.seed,
        }
        if self.settings.clip is not None:  # studies from before it could be asked for have no such key
            identity |= {"clip": self.settings.clip, "clip_network": ClipScore(self.settings.clip).identity()}
        if self.settings.tasks is not None:
            identity |= {"score": f"shapes-world GenEval, mean of {', '.join(self.tasks)}", "tasks": list(self.tasks)}
        return identity

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is asked, and the score's mean is taken of."""
        return self.settings.tasks or GENEVAL_TASKS

    def networks(self) -> dict[str, AbstractFeatures]:
        """What distances are taken on, by what their columns begin with."""
        clip = self.settings.clip
        return {"": self.features, **({} if clip is None else {"clip_": ClipFeatures(clip)})}

    def questions(self) -> list[Question]:
        """What is asked, pictures only."""
        asked = Protocol(
            self.settings.prompts, self.settings.images, held_out_prompts=0, seed=self.settings.seed, tasks=self.tasks
        )
        return [question for question in asked.questions(self.world, clips=False) if question.split == IID]

    def chance(self) -> float:
        """The score of pictures that are right and drawn without reading the prompts, 0 to 1.

        Raises:
            ValueError: if a task is asked but one prompt.
        """
        by_task: dict[str, list[Metadata]] = {}
        for question in self.questions():
            by_task.setdefault(question.metadata["tag"], []).append(question.metadata)
        return float(np.mean([chance(self.world, prompts) for prompts in by_task.values()]))

    def requests(self) -> list[Request]:
        """The pictures to make, in the order of the questions."""
        return [question.request for question in self.questions()]

    def reference(self) -> dict[str, Floats]:
        """Features of the true pictures, by network."""
        true = [
            self.world.illustrate(question.metadata, self.settings.seed, index).frames
            for index, question in enumerate(self.questions())
        ]
        return {prefix: network(np.concatenate(true)) for prefix, network in self.networks().items()}

    def __call__(self, made: Sequence[Frames], reference: Mapping[str, Floats]) -> dict[str, float | int]:
        """Numbers of one set of pictures, uint8 (1, H, W, 3) each, in the order of the questions.

        Returns:
            score with `score_error`, distances with `frechet_error` and `kernel_error` (standard errors: of the
            score over prompts, of the distances over pictures), each task of GenEval, and n; with a CLIP clip_score,
            clip_frechet and clip_kernel likewise.
        """
        questions = self.questions()
        answers = [(q.metadata, f) for q, f in zip(questions, made, strict=True)]
        scores = score_shapes(self.world, answers, tasks=self.tasks)
        overall = scores.pop("geneval/overall")
        numbers = {"score": overall["value"], "score_error": (overall["high"] - overall["low"]) / (2 * Z95)}
        for prefix, network in self.networks().items():
            for name, value in self._distances(network(np.concatenate(list(made))), reference[prefix]).items():
                numbers[prefix + name] = value
        if self.settings.clip is not None:
            prompts = [question.request.prompt for question in questions]
            said = summary(ClipScore(self.settings.clip).score(made, prompts), prompts)
            assert said["value"] is not None and said["high"] is not None and said["low"] is not None
            numbers |= {"clip_score": said["value"], "clip_score_error": (said["high"] - said["low"]) / (2 * Z95)}
        tasks = {name: score["value"] for name, score in scores.items() if name.startswith("geneval/")}
        return {**numbers, **tasks, "n": len(made)}

    def _distances(self, features: Floats, reference: Floats) -> dict[str, float]:
        rng = np.random.Generator(np.random.Philox(key=self.settings.seed))
        drawn = [features[rng.integers(len(features), size=len(features))] for _ in range(RESAMPLES)]
        numbers = {}
        for name, distance in (("frechet", frechet_distance), ("kernel", kernel_distance)):
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", message="the Frechet distance of"
                )  # few pictures are a study's choice
                numbers[name] = distance(features, reference)
                numbers[f"{name}_error"] = float(np.std([distance(each, reference) for each in drawn]))
        return numbers
