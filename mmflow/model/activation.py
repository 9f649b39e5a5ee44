"""The nonlinearity of the MLPs, and its slope."""

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

ActivationName = Literal["gelu_tanh", "gelu", "relu_squared"]
"""GELU by the tanh approximation of the released models; GELU itself; relu(x)^2 (So et al. 2021, arXiv 2109.08668)."""

APPROXIMATE = {"gelu_tanh": "tanh", "gelu": "none"}
aten = torch.ops.aten


def activate(x: Tensor, name: ActivationName) -> Tensor:
    """The nonlinearity of every number."""
    if name == "relu_squared":
        return F.relu(x).square()
    return F.gelu(x, approximate=APPROXIMATE[name])


def activation_backward(grad: Tensor, x: Tensor, name: ActivationName) -> Tensor:
    """The gradient before the nonlinearity, from the one behind it; that of relu(x)^2 is 2 relu(x)."""
    if name == "relu_squared":
        return F.relu(x).mul_(grad).mul_(2)
    slope: Tensor = aten.gelu_backward(grad, x, approximate=APPROXIMATE[name])
    return slope
