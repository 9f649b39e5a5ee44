"""The distances as torchmetrics shells: states in float64, summed or gathered over all ranks."""

import warnings
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from mmflow.metrics.distance import frechet_of_moments, kernel_distance_of_subsets

SIDES = ("made", "true")


@final
class FrechetDistance(Metric):
    """Frechet distance of features that come in batches; keeps sums only, so memory does not grow.

    Args:
        width: of the features.
    """

    full_state_update = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        for side in SIDES:
            for name, shape in (("sum", (width,)), ("products", (width, width)), ("count", ())):
                self.add_state(f"{side}_{name}", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Float[Tensor, "N D"], true: bool) -> None:
        """Adds the features of made or of true pictures.

        Raises:
            ValueError: if one is not finite.
        """
        side = SIDES[true]
        _refuse_bad(features, side)
        x = features.detach().double()
        for name, value in (("sum", x.sum(0)), ("products", x.T @ x), ("count", torch.tensor(len(x)))):
            state = getattr(self, f"{side}_{name}")
            state += value.to(state)

    def compute(self) -> float:
        """The distance.

        Raises:
            ValueError: if a side has fewer than two pictures.
        """
        both = []
        counts = {side: int(getattr(self, f"{side}_count")) for side in SIDES}
        if min(counts.values()) < 2:
            raise ValueError(f"a distance between sets needs two pictures in each, got {counts}")
        if min(counts.values()) < self.width:
            warnings.warn(
                f"the Frechet distance of {min(counts.values())} pictures on {self.width} features is mostly bias: "
                "take more, or KernelDistance",
                stacklevel=2,
            )
        for side in SIDES:
            n = counts[side]
            mean = getattr(self, f"{side}_sum") / n
            covariance = (getattr(self, f"{side}_products") - n * torch.outer(mean, mean)) / (n - 1)
            both += [mean.cpu().numpy(), covariance.cpu().numpy()]
        return frechet_of_moments(*both)


@final
class KernelDistance(Metric):
    """KID of features that come in batches; keeps them all.

    Args:
        subsets: random subsets whose distances are averaged.
        size: pictures of a subset, no more than there are.
        seed: of the choice.
    """

    full_state_update = False

    def __init__(self, subsets: int = 100, size: int = 1000, seed: int = 0) -> None:
        super().__init__()
        self.subsets, self.size, self.seed = subsets, size, seed
        for side in SIDES:
            self.add_state(side, [], dist_reduce_fx="cat")

    def update(self, features: Float[Tensor, "N D"], true: bool) -> None:
        """Adds the features of made or of true pictures.

        Raises:
            ValueError: if one is not finite.
        """
        side = SIDES[true]
        _refuse_bad(features, side)
        getattr(self, side).append(features.detach().double())

    def compute(self) -> tuple[float, float]:
        """Mean and standard deviation over the subsets.

        Raises:
            ValueError: if a side has fewer than two pictures.
        """
        states = [getattr(self, side) for side in SIDES]  # a list here, one tensor once ranks were gathered
        made, true = (torch.cat(s) if isinstance(s, list) and s else torch.as_tensor(s) for s in states)
        if min(len(made), len(true)) < 2:
            raise ValueError(f"a distance between sets needs two pictures in each, got {len(made)} and {len(true)}")
        return kernel_distance_of_subsets(
            made.cpu().numpy(), true.cpu().numpy(), self.subsets, self.size, seed=self.seed
        )


def _refuse_bad(features: Tensor, side: str) -> None:
    bad = int((~torch.isfinite(features.detach()).all(1)).sum())
    if bad:
        raise ValueError(f"{bad} of {len(features)} feature vectors of {side} pictures are not finite")
