"""Optimizers and the learning-rate schedule."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from mmflow.train.parallel import place_like, whole_tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration of Muon (Jordan et al. 2024): fast growth of small singular values."""
NEWTON_SCHULZ_STEPS = 5


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Weights of linear layers: what weight decay applies to. Biases, norms and embeddings are left alone."""
    return parameter.ndim >= 2 and "embed" not in name


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Matrices of the blocks' attention, MLPs and modulations: what Muon orthogonalises."""
    return is_matrix(name, parameter) and parameter.ndim == 2 and name.startswith("blocks.")


def num_stacked(name: str, parameter: Tensor) -> int:
    """How many maps stand one below the other in a weight: queries, keys and values, or the vectors of a modulation."""
    rows, columns = parameter.shape
    if "modulation" in name:
        return rows // columns if rows % columns == 0 else 1
    return {"qkv": 3, "kv": 2}.get(name.split(".")[-2], 1)


@dataclass(frozen=True)
class AbstractOptimizer(ABC):
    """A recipe that builds an optimizer for a network."""

    @abstractmethod
    def build(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
        """The optimizer of the network's parameters, its groups' `lr` being the peak learning rate.

        Args:
            network: what is trained.
            dtype: in which the optimizer's own matrix products are taken, if it has any: that of training.
        """


@final
@dataclass(frozen=True)
class AdamW(AbstractOptimizer):
    """Fused AdamW; no decay on biases, norms and embeddings.

    Attributes:
        lr: peak learning rate (the paper's study: 1e-4).
        betas: decay of the two moments.
        eps: 1e-15 is the paper's choice for bf16-mixed training at high resolution.
        weight_decay: decoupled, on matrices only.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-15
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if self.lr <= 0 or not all(0 <= beta < 1 for beta in self.betas) or self.weight_decay < 0:
            raise ValueError(
                f"need lr > 0, betas in [0, 1), weight_decay >= 0; got {self.lr}, {self.betas}, {self.weight_decay}"
            )

    def build(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
        named = list(network.named_parameters())
        groups = [
            {"params": [p for n, p in named if is_matrix(n, p)], "weight_decay": self.weight_decay},
            {"params": [p for n, p in named if not is_matrix(n, p)], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


@final
@dataclass(frozen=True)
class Muon(AbstractOptimizer):
    """Muon on the blocks' matrices, AdamW on everything else: fewer steps to the same loss for small batches of
    compute.

    Maps that are stored as one weight are orthogonalised one by one: queries, keys and values have different scales,
    and so have the vectors of a modulation.

    Attributes:
        lr: peak learning rate of Muon, in units of RMS change per entry.
        momentum: of Muon's Nesterov momentum.
        weight_decay: decoupled, on matrices.
        adamw_lr: peak learning rate of all other parameters.
        betas: of AdamW's moments.
        eps: of AdamW.
    """

    lr: float = 2e-3
    momentum: float = 0.95
    weight_decay: float = 0.01
    adamw_lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-15

    def __post_init__(self) -> None:
        if min(self.lr, self.adamw_lr) <= 0 or not 0 <= self.momentum < 1 or self.weight_decay < 0:
            raise ValueError(
                f"need lr and adamw_lr > 0, momentum in [0, 1), weight_decay >= 0; got {self.lr}, {self.adamw_lr}, "
                f"{self.momentum}, {self.weight_decay}"
            )

    def build(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> torch.optim.Optimizer:
        named = list(network.named_parameters())
        rest = [(n, p) for n, p in named if not is_hidden(n, p)]
        adamw = {"lr": self.adamw_lr, "betas": self.betas, "eps": self.eps, "kind": "adamw"}
        muon = {"lr": self.lr, "momentum": self.momentum, "weight_decay": self.weight_decay, "kind": "muon"}
        stacked = {p: num_stacked(n, p) for n, p in named if is_hidden(n, p)}
        groups: list[dict[str, Any]] = [
            *(
                {"params": [p for p, n in stacked.items() if n == number], "stacked": number, **muon}
                for number in sorted(set(stacked.values()))
            ),
            {"params": [p for n, p in rest if is_matrix(n, p)], "weight_decay": self.weight_decay, **adamw},
            {"params": [p for n, p in rest if not is_matrix(n, p)], "weight_decay": 0.0, **adamw},
        ]
        return MuonAdamW(groups, dtype)


def orthogonalise(update: Tensor, dtype: torch.dtype) -> Tensor:
    """U V^T, nearly, of each matrix in a stack (n, rows, columns), by Newton-Schulz iteration in `dtype`.

    bf16 is exact enough, but processors without bf16 instructions take a hundred times as long for it.
    """
    a, b, c = NEWTON_SCHULZ
    x = update.to(dtype)
    wide = x.shape[-2] > x.shape[-1]
    x = x.mT if wide else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if wide else x).to(update.dtype)


@final
class MuonAdamW(torch.optim.Optimizer):
    """One optimizer of two rules, so that schedules, clipping and checkpoints treat it as any other."""

    def __init__(self, groups: Iterable[dict[str, Any]], dtype: torch.dtype = torch.float32) -> None:
        super().__init__(list(groups), {"lr": 0.0})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                (self._muon if group["kind"] == "muon" else self._adamw)(group, parameters)
        return loss

    def _muon(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for p in parameters:
            by_shape.setdefault(p.shape, []).append(p)
        for shape, members in by_shape.items():
            grads: list[Tensor] = [p.grad for p in members if p.grad is not None]
            momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in members]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            nesterov = torch._foreach_lerp(grads, momenta, group["momentum"])
            # 0.2 sqrt(max side) gives updates the RMS of AdamW's, so that one learning rate serves every shape.
            rows, columns = shape[0] // group["stacked"], shape[1]
            scale = 0.2 * math.sqrt(max(rows, columns))
            # A matrix that is cut over processes is orthogonalised whole, by each of them, and cut again.
            whole = torch.stack([whole_tensor(each) for each in nesterov])
            orthogonal = orthogonalise(whole.view(-1, rows, columns), self._dtype).view_as(whole)
            updates = [place_like(u, p) for u, p in zip(orthogonal, members, strict=True)]
            torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(members, updates, alpha=-group["lr"] * scale)

    def _adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        states = [self.state[p] for p in parameters]
        for p, state in zip(parameters, states, strict=True):
            if not state:
                state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        torch._fused_adamw_(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [],
            [s["step"].add_(1) for s in states],
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


@dataclass(frozen=True)
class LrSchedule:
    """Linear warm-up, then constant, linear or cosine decay over the run's progress.

    Attributes:
        warmup_steps: optimizer steps from 0 to the peak.
        decay: shape of the way down; `constant` stays at the peak.
        decay_from: share of the run after which the decay begins, in [0, 1).
        floor: share of the peak that is left at the end.
    """

    warmup_steps: int = 1000
    decay: Literal["constant", "linear", "cosine"] = "constant"
    decay_from: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0 or not 0 <= self.decay_from < 1 or not 0 <= self.floor <= 1:
            raise ValueError(
                f"need warmup_steps >= 0, decay_from in [0, 1), floor in [0, 1]; got {self.warmup_steps}, "
                f"{self.decay_from}, {self.floor}"
            )

    def factor(self, step: int, progress: float) -> float:
        """Learning rate over its peak, for optimizer step `step` (from 0) at `progress` in [0, 1] of the run."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        gone = min(max((progress - self.decay_from) / (1 - self.decay_from), 0.0), 1.0)
        shape = {"constant": 1.0, "linear": 1 - gone, "cosine": 0.5 * (1 + math.cos(math.pi * gone))}[self.decay]
        return warm * (self.floor + (1 - self.floor) * shape)
