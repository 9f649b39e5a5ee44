"""How loss falls with size and compute: power laws with intervals, the best size for a budget, the next size's loss.

    L(x) = A x^-a                              one quantity: parameters at equal steps
    L(N, D) = E + A N^-a + B D^-b              parameters and samples seen (Hoffmann et al. 2022, eq. 10)

Both are fitted to logarithms of losses by least squares. Intervals are those of non-linear regression: the curvature at
the optimum, Student's t with the degrees of freedom that are left. Checkpoints of one run hang together, so intervals
of the second law, which takes them all, are too narrow; they say so where they are shown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import t as student

Floats = NDArray[np.float64]
Law = Callable[[Floats, Floats], Floats]
"""(unconstrained parameters, quantities (n, k)) -> log losses (n,)."""
MIN_SIZES = 2
"""Sizes that a law is fitted to; one more is held out."""
STARTS = (0.1, 0.4, 0.8)
"""Exponents that a fit starts from."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN ends where no degree of freedom is left."""

    value: float
    low: float
    high: float

    def covers(self, value: float) -> bool:
        """Whether a value lies in the interval."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
        law: from parameters and quantities to log losses.
        theta: its parameters, in their unconstrained form.
        covariance: of them; NaN without degrees of freedom.
        spread: standard deviation of a log loss about the law.
        free: degrees of freedom left.
    """

    law: Law
    theta: Floats
    covariance: Floats
    spread: float
    free: int

    @property
    def _t(self) -> float:
        return float(student.ppf(0.975, self.free)) if self.free > 0 else float("nan")

    def parameter(self, place: int, of: Callable[[float], float] = float) -> Estimate:
        """A parameter, after a rising function of its unconstrained form, with its interval."""
        half = self._t * float(np.sqrt(self.covariance[place, place]))
        value = float(self.theta[place])
        return Estimate(of(value), of(value - half), of(value + half))

    def predict(self, *quantities: float) -> Estimate:
        """Loss of one further run, with the interval of that run: of the law's parameters and of its own spread."""
        x = np.array([quantities], dtype=np.float64)
        value = float(self.law(self.theta, x)[0])
        slope = _slope(self.law, self.theta, x)[0]
        half = self._t * float(np.sqrt(self.spread**2 + slope @ self.covariance @ slope))
        return Estimate(float(np.exp(value)), float(np.exp(value - half)), float(np.exp(value + half)))


def _fit(law: Law, starts: Sequence[Sequence[float]], x: Floats, losses: Floats) -> Fit:
    y = np.log(losses)
    found = min(
        (
            least_squares(lambda theta: law(theta, x) - y, np.array(start), x_scale="jac", max_nfev=2000)
            for start in starts
        ),
        key=lambda each: float(each.cost),
    )
    theta: Floats = np.asarray(found.x, dtype=np.float64)
    free = len(y) - len(theta)
    residual = law(theta, x) - y
    if free <= 0:
        return Fit(law, theta, np.full((len(theta), len(theta)), np.nan), float("nan"), 0)
    spread = float(np.sqrt(residual @ residual / free))
    slope = _slope(law, theta, x)
    covariance: Floats = np.asarray(spread**2 * np.linalg.pinv(slope.T @ slope), dtype=np.float64)
    return Fit(law, theta, covariance, spread, free)


def _slope(law: Law, theta: Floats, x: Floats) -> Floats:
    """d log L / d theta, (n, p), by central differences."""
    columns = []
    for place in range(len(theta)):
        step = np.zeros_like(theta)
        step[place] = 1e-5 * max(1.0, abs(float(theta[place])))
        columns.append((law(theta + step, x) - law(theta - step, x)) / (2 * step[place]))
    return np.stack(columns, axis=1)


def power_law(theta: Floats, x: Floats) -> Floats:
    """log A - a log x; theta = (log A, a)."""
    found: Floats = theta[0] - theta[1] * np.log(x[:, 0])
    return found


def size_and_data_law(theta: Floats, x: Floats) -> Floats:
    """log(E + A N^-a + B D^-b); theta = (log E, log A, log a, log B, log b), x = (N, D)."""
    log_e, log_a, alpha, log_b, beta = theta
    terms = np.stack(
        [
            np.full(len(x), log_e),
            log_a - np.exp(np.clip(alpha, -10, 3)) * np.log(x[:, 0]),
            log_b - np.exp(np.clip(beta, -10, 3)) * np.log(x[:, 1]),
        ]
    )
    found: Floats = np.logaddexp.reduce(terms)
    return found


def fit_power_law(x: Sequence[float], losses: Sequence[float]) -> Fit:
    """Of one quantity.

    Raises:
        ValueError: if there are fewer than two different x, or a number is not positive.
    """
    a, b = _positive(x, losses)
    if len(set(x)) < MIN_SIZES:
        raise ValueError(f"a power law needs {MIN_SIZES} different sizes, got {sorted(set(x))}")
    slope, offset = np.polyfit(np.log(a), np.log(b), 1)
    return _fit(power_law, [[offset, -slope]], a[:, None], b)


def fit_size_and_data(sizes: Sequence[float], samples: Sequence[float], losses: Sequence[float]) -> Fit:
    """Of parameters and samples seen, over checkpoints of several runs.

    Raises:
        ValueError: if there are fewer than two sizes, six checkpoints, or a number is not positive.
    """
    n, y = _positive(sizes, losses)
    d, _ = _positive(samples, losses)
    if len(set(sizes)) < MIN_SIZES or len(y) < 6:
        raise ValueError(
            f"L(N, D) has five parameters: it needs {MIN_SIZES} sizes and 6 checkpoints, got {len(set(sizes))} and "
            f"{len(y)}"
        )
    low = float(y.min())
    starts = [
        [
            np.log(low * share),
            np.log(low) + a * np.log(n.min()),
            np.log(a),
            np.log(low) + b * np.log(d.min()),
            np.log(b),
        ]
        for share, a, b in product((0.2, 0.7), STARTS, STARTS)
    ]
    return _fit(size_and_data_law, starts, np.stack([n, d], axis=1), y)


def _positive(x: Sequence[float], losses: Sequence[float]) -> tuple[Floats, Floats]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all() and (a > 0).all() and (b > 0).all()):
        raise ValueError("a power law needs as many losses as sizes, all of them positive and finite")
    return a, b


@dataclass(frozen=True)
class IsoFlop:
    """The best size for one budget of compute.

    Attributes:
        flops: the budget.
        losses: parameters -> loss at that budget, of the sizes whose run spent it.
        best: parameters at the minimum of a parabola in log N; NaN where the minimum is not between the sizes.
        loss: there, or the least loss of a size.
        edge: "" or which end is best: "smallest", "largest".
    """

    flops: float
    losses: Mapping[float, float]
    best: float
    loss: float
    edge: str


def iso_flops(curves: Mapping[float, tuple[Floats, Floats]], budgets: int = 5) -> list[IsoFlop]:
    """Parabolas over sizes at budgets that at least three of them have spent (Hoffmann et al. 2022, approach 2).

    Args:
        curves: parameters -> (FLOPs spent, loss) of its checkpoints, in the order of steps.
        budgets: how many, evenly in the logarithm.
    """
    spans = sorted((float(f[0]), float(f[-1])) for f, _ in curves.values())
    if len(spans) < 3:
        return []
    low = sorted(start for start, _ in spans)[2]  # from here on three have begun
    high = sorted((end for _, end in spans), reverse=True)[2]
    if not low < high:
        return []
    return [found for c in np.geomspace(low, high, budgets) if (found := _at_budget(float(c), curves)) is not None]


def _at_budget(flops: float, curves: Mapping[float, tuple[Floats, Floats]]) -> IsoFlop | None:
    losses = {
        size: float(np.exp(np.interp(np.log(flops), np.log(f), np.log(y))))
        for size, (f, y) in sorted(curves.items())
        if f[0] <= flops * (1 + 1e-9) and flops <= f[-1] * (1 + 1e-9)
    }
    if len(losses) < 3:
        return None
    sizes = list(losses)
    x, y = np.log(np.array(sizes)), np.log(np.array(list(losses.values())))
    place = int(y.argmin())
    if place in (0, len(sizes) - 1):
        edge = "smallest" if place == 0 else "largest"
        return IsoFlop(flops, losses, float("nan"), float(np.exp(y[place])), edge)
    near = slice(place - 1, place + 2)
    a, b, c = np.polyfit(x[near], y[near], 2)
    best = -b / (2 * a)
    return IsoFlop(flops, losses, float(np.exp(best)), float(np.exp(c - b * b / (4 * a))), "")
