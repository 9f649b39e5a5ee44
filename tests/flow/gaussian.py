"""A Gaussian distribution of data, for which every network's best output and the exact flow are known."""

import torch
from torch import Tensor

from mmflow.flow.diffusion_path import Cosine, Edm, Exploding, LdmLinear
from mmflow.flow.diffusion_prediction import EdmF, Epsilon, V
from mmflow.flow.objective import Backbone, FlowObjective
from mmflow.flow.path import AbstractPath, RectifiedFlow
from mmflow.flow.prediction import AbstractPrediction, Data, Velocity

Groups = tuple[Tensor, ...]
PATHS: tuple[AbstractPath, ...] = (
    RectifiedFlow(),
    Cosine(),
    LdmLinear(),
    Edm(-1.2, 1.2),
    Edm(0.6, 0.6),
    Exploding(RectifiedFlow()),
    Exploding(Cosine()),
)
PREDICTIONS: tuple[AbstractPrediction, ...] = (Velocity(), Data(min_t=1e-9), Epsilon(), V(), EdmF())
MEAN = torch.tensor([1.5, -0.4, 0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.6, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.4]], dtype=torch.float64)
EYE = torch.eye(3, dtype=torch.float64)


def column(x: Tensor) -> Tensor:
    """(B, 3) as a group of B one-pixel pictures, and back."""
    return x.reshape(-1, 3, 1, 1, 1) if x.ndim == 2 else x.reshape(-1, 3)


def root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag_embed(values.sqrt()) @ vectors.mT


def expectations(z: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """E[x0 | z] and E[eps | z] of z = a x0 + b eps; (B, 3)."""
    a, b = a.reshape(-1, 1), b.reshape(-1, 1)
    spread = a[..., None].square() * COVARIANCE + b[..., None].square() * EYE
    solved = torch.linalg.solve(spread, (z - a * MEAN)[..., None])[..., 0]
    return MEAN + a * (solved @ COVARIANCE), b * solved


def perfect_network(objective: FlowObjective) -> Backbone:
    """What least squares makes of any network: the expectation of its target given z_t."""
    path, prediction = objective.path, objective.prediction

    def network(z: Groups, t: Tensor, conditioning: object) -> Groups:
        scaled = column(z[0]) / prediction.input_scale(path, t)[:, None]
        x0, eps = expectations(scaled, path.a(t), path.b(t))
        return (prediction.target(path, column(x0), column(eps), t),)

    return network


def exact_field(y: Groups, s: Tensor) -> Groups:
    """dy/ds = E[eps - x0 | y] in straight coordinates."""
    x0, eps = expectations(column(y[0]), 1 - s, s)
    return (column(eps - x0),)


def transported(y: Tensor, share: float, end: float = 0.0) -> Tensor:
    """Where the exact flow takes y from one share of the noise to another: affine, as Gaussians map; (B, 3)."""
    roots = [root((1 - s) ** 2 * COVARIANCE + s**2 * EYE) for s in (share, end)]
    return (1 - end) * MEAN + (y - (1 - share) * MEAN) @ (roots[1] @ torch.linalg.inv(roots[0])).mT
