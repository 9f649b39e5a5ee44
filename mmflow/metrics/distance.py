"""Distances between two sets of feature vectors: Frechet's (FID on Inception's) and the kernel's (KID on Inception's).

They know nothing of pictures: features are float64 (N, width) of whichever network. All arithmetic is float64.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Distance = Callable[[Floats, Floats], float]
BLOCK = 256
"""Columns of a covariance, and thousands of pairs of a kernel, that are worked on at once."""
GROUPS = 10
"""Parts that a jackknife leaves out in turn."""


def frechet_distance(a: Floats, b: Floats) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2) with unbiased covariances (Heusel et al. 2017, eq. 6).

    Biased upward, the more so the fewer pictures there are; sets of different sizes do not compare.

    Warns:
        UserWarning: if a set holds fewer pictures than the features are wide.

    Raises:
        ValueError: if a set holds fewer than two pictures, widths differ, or a feature is not finite.
    """
    check_features(a, b)
    few = min(len(a), len(b))
    if few < a.shape[1]:
        warnings.warn(
            f"the Frechet distance of {few} pictures on {a.shape[1]} features is mostly bias, since their covariance "
            f"has no full rank: take more than {a.shape[1]} pictures, or read the kernel distance (KID), which has no "
            "bias at any number",
            stacklevel=2,
        )
        return _frechet_of_few(a, b)
    return frechet_of_moments(*moments(a), *moments(b))


def moments(features: Floats) -> tuple[Floats, Floats]:
    """Mean (width,) and unbiased covariance (width, width)."""
    x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64))
    mean = x.mean(0)
    x = x - mean
    covariance = x.new_empty(x.shape[1], x.shape[1])
    for start in range(0, x.shape[1], BLOCK):  # it is symmetric: half of the products do
        columns = x[:, start : start + BLOCK].T @ x[:, start:] / (len(x) - 1)
        covariance[start : start + BLOCK, start:] = columns
        covariance[start:, start : start + BLOCK] = columns.T
    return mean.numpy(), covariance.numpy()


def frechet_of_moments(mu_a: Floats, s_a: Floats, mu_b: Floats, s_b: Floats) -> float:
    """The Frechet distance of two Gaussians. tr (S_a S_b)^1/2 is the sum of the roots of the eigenvalues of L^T S_b L
    with S_a = L L^T: symmetric, so its eigenvalues are real however close to singular the product is.
    """
    a, b = torch.from_numpy(s_a), torch.from_numpy(s_b)
    root, failed = torch.linalg.cholesky_ex(a)
    if int(failed):
        values, vectors = torch.linalg.eigh(a)
        root = vectors * values.clamp_min(0).sqrt()
    cross = _root_trace(root.T @ b @ root)
    difference = mu_a - mu_b
    return float(difference @ difference + np.trace(s_a) + np.trace(s_b) - 2 * cross)


def _frechet_of_few(a: Floats, b: Floats) -> float:
    """The same where a covariance has no full rank. tr (S_a S_b)^1/2 is then the sum of the singular values of the
    n_a x n_b matrix of inner products of the centred features, which is smaller than a covariance.
    """
    few, many = sorted((torch.from_numpy(x - x.mean(0)) for x in (a, b)), key=len)
    products = few @ many.T
    cross = _root_trace(products @ products.T) / ((len(a) - 1) * (len(b) - 1)) ** 0.5
    difference = a.mean(0) - b.mean(0)
    spread = sum(float(((x - x.mean(0)) ** 2).sum()) / (len(x) - 1) for x in (a, b))
    return float(difference @ difference + spread - 2 * cross)


def _root_trace(symmetric: Tensor) -> float:
    return float(torch.linalg.eigvalsh(symmetric).clamp_min(0).sqrt().sum())


def kernel_distance(a: Floats, b: Floats) -> float:
    """Unbiased MMD^2 with the kernel (x y / width + 1)^3 over all pairs (Binkowski et al. 2018); may fall below 0.

    Raises:
        ValueError: if a set holds fewer than two pictures, widths differ, or a feature is not finite.
    """
    check_features(a, b)
    return _within(a) + _within(b) - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def kernel_distance_of_subsets(
    a: Floats, b: Floats, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """KID as it is published: mean and standard deviation of `kernel_distance` over random subsets of both sets.

    The mean estimates what `kernel_distance` of all pairs estimates with less noise; the deviation is that of one
    subset, not of the mean.

    Args:
        a: features.
        b: features.
        subsets: their number.
        size: pictures of each; no more than there are.
        seed: of the choice.

    Raises:
        ValueError: as `kernel_distance`.
    """
    check_features(a, b)
    rng = np.random.Generator(np.random.Philox(key=seed))
    size = min(size, len(a), len(b))
    drawn = [
        kernel_distance(a[rng.permutation(len(a))[:size]], b[rng.permutation(len(b))[:size]]) for _ in range(subsets)
    ]
    return float(np.mean(drawn)), float(np.std(drawn))


def _within(x: Floats) -> float:
    """Mean of the kernel over the pairs of different members."""
    own = float(((np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3).sum())
    return (_kernel_sum(x, x) - own) / (len(x) * (len(x) - 1))


def _kernel_sum(x: Floats, y: Floats) -> float:
    rows, total = max(1, BLOCK * 1000 // len(y)), 0.0
    for start in range(0, len(x), rows):
        inner = x[start : start + rows] @ y.T / x.shape[1] + 1
        total += float((inner * inner * inner).sum())  # many times as quick as a power
    return total


def jackknife_error(distance: Distance, features: Floats, reference: Floats, groups: int = GROUPS) -> float:
    """Standard error of a distance over the pictures of `features`, the reference being as it is.

    Every `groups`-th picture is left out in turn: ((G - 1) / G sum (d_g - mean d)^2)^1/2. The bias that a distance has
    at this number of pictures is in all parts alike and does not show.

    Args:
        distance: of two sets.
        features: of the pictures made, N >= 2 x groups.
        reference: of the true ones.
        groups: how many.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said once, of the whole
        parts = [distance(np.delete(features, np.s_[g::groups], 0), reference) for g in range(groups)]
    return float(((groups - 1) / groups * ((np.array(parts) - np.mean(parts)) ** 2).sum()) ** 0.5)


def check_features(*sets: Floats) -> None:
    """Refuses what has no distance.

    Raises:
        ValueError: if a set holds fewer than two pictures, widths differ, or a feature is not finite.
    """
    if min(len(x) for x in sets) < 2:
        raise ValueError(
            f"a distance between sets needs two pictures in each, got {' and '.join(str(len(x)) for x in sets)}"
        )
    if len({x.shape[1:] for x in sets}) > 1:
        raise ValueError(f"features of different widths have no distance: {', '.join(str(x.shape[1:]) for x in sets)}")
    for x in sets:
        bad = np.flatnonzero(~np.isfinite(x).all(1))
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(x)} feature vectors are not finite, the first is number {bad[0]}: look at that "
                "picture, and take fp32 where the network ran in fp16"
            )
