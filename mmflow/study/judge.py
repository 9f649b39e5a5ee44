"""How good a cell's pictures are, in the shapes world: a score to maximise and a distance to minimise."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from mmflow.batch import Request
from mmflow.metrics.distance import frechet_distance, kernel_distance
from mmflow.metrics.interval import Z95
from mmflow.metrics.protocol import IID, Protocol, Question
from mmflow.metrics.random_features import RandomFeatures
from mmflow.metrics.shapes_scores import score_shapes
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
    pictures is mostly bias, the same for all, and moves little.
    """

    world: World
    settings: JudgeSettings
    features: RandomFeatures = field(default_factory=RandomFeatures)

    def identity(self) -> dict[str, Any]:
        """What numbers of this judge must be compared by."""
        return {
            "score": "shapes-world GenEval overall",
            "distance": f"kernel and Frechet on {self.features.name}",
            "prompts": self.settings.prompts,
            "images": self.settings.images,
            "seed": self.settings.seed,
        }

    def questions(self) -> list[Question]:
        """What is asked, pictures only."""
        asked = Protocol(self.settings.prompts, self.settings.images, held_out_prompts=0, seed=self.settings.seed)
        return [question for question in asked.questions(self.world, clips=False) if question.split == IID]

    def requests(self) -> list[Request]:
        """The pictures to make, in the order of the questions."""
        return [question.request for question in self.questions()]

    def reference(self) -> NDArray[np.float64]:
        """Features of the true pictures."""
        true = [
            self.world.illustrate(question.metadata, self.settings.seed, index).frames
            for index, question in enumerate(self.questions())
        ]
        return self.features(np.concatenate(true))

    def __call__(self, made: Sequence[Frames], reference: NDArray[np.float64]) -> dict[str, float | int]:
        """Numbers of one set of pictures, uint8 (1, H, W, 3) each, in the order of the questions.

        Returns:
            score with `score_error`, distances with `frechet_error` and `kernel_error` (standard errors: of the
            score over prompts, of the distances over pictures), GenEval's six tasks, and n.
        """
        questions = self.questions()
        scores = score_shapes(self.world, [(q.metadata, f) for q, f in zip(questions, made, strict=True)])
        overall = scores.pop("geneval/overall")
        features = self.features(np.concatenate(list(made)))
        rng = np.random.Generator(np.random.Philox(key=self.settings.seed))
        drawn = [features[rng.integers(len(features), size=len(features))] for _ in range(RESAMPLES)]
        return {
            "score": overall["value"],
            "score_error": (overall["high"] - overall["low"]) / (2 * Z95),
            "frechet": frechet_distance(features, reference),
            "frechet_error": float(np.std([frechet_distance(each, reference) for each in drawn])),
            "kernel": kernel_distance(features, reference),
            "kernel_error": float(np.std([kernel_distance(each, reference) for each in drawn])),
            **{name: score["value"] for name, score in scores.items() if name.startswith("geneval/")},
            "n": len(made),
        }
