"""Optimizers against PyTorch's own and closed forms; the schedule against its formula."""

import copy
import math

import pytest
import torch
from torch import nn

from mmflow.train.optim import (
    AbstractOptimizer,
    AdamW,
    LrSchedule,
    Muon,
    MuonAdamW,
    is_hidden,
    is_matrix,
    orthogonalise,
)
from tests.conftest import random_mmdit

NETWORK = random_mmdit()
MUON = {"kind": "muon", "stacked": 1}
NAMES = {id(p): n for n, p in NETWORK.named_parameters()}


def names(group: dict) -> set[str]:
    return {NAMES[id(p)] for p in group["params"]}


def test_decay_is_on_the_matrices_of_layers_only() -> None:
    decayed, spared = AdamW(weight_decay=0.1).build(NETWORK).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert names(decayed) | names(spared) == set(NAMES.values()) and not names(decayed) & names(spared)
    assert all(name.endswith(".weight") and "norm" not in name and "embed" not in name for name in names(decayed))
    assert {n for n in NAMES.values() if n.endswith(".bias") or "norm" in n or "embed" in n} == names(spared)
    assert {"blocks.0.visual.qkv.weight", "final_modulation.weight"} < names(decayed)


def test_muon_takes_the_blocks_matrices_with_what_is_stacked_in_them() -> None:
    *muon, decayed, spared = groups = Muon(lr=0.1, adamw_lr=0.2, weight_decay=0.3).build(NETWORK).param_groups
    assert [(g["kind"], g["lr"], g["weight_decay"]) for g in muon] == [("muon", 0.1, 0.3)] * len(muon)
    assert [(g["kind"], g["lr"], g["weight_decay"]) for g in (decayed, spared)] == [("adamw", 0.2, x) for x in (0.3, 0)]
    assert set().union(*map(names, groups)) == set(NAMES.values()) and sum(map(len, map(names, groups))) == len(NAMES)
    stacked = {name.split(".", 3)[3]: g["stacked"] for g in muon for name in names(g) if name.startswith("blocks.0")}
    whole = dict.fromkeys(("proj.weight", "mlp.0.weight", "mlp.2.weight"), 1)
    assert stacked == {"qkv.weight": 3, "modulation.weight": 6, **whole}
    assert all(is_hidden(n, p) <= is_matrix(n, p) for n, p in NETWORK.named_parameters())


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    return network, copy.deepcopy(network)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()


def test_the_adamw_part_is_pytorch_s_adamw() -> None:
    ours, theirs = pair()
    rule = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    train(ours, MuonAdamW([{"params": list(ours.parameters()), "kind": "adamw", **rule}]), range(5))
    train(theirs, torch.optim.AdamW(theirs.parameters(), **rule), range(5))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_muon_part_is_its_formula() -> None:
    """Two steps by hand: momentum as an average, Nesterov's look ahead, decay before the update."""
    weight = nn.Parameter(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    optimizer = MuonAdamW([{"params": [weight], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.5, **MUON}])
    expected, momentum = weight.detach().clone(), torch.zeros(4, 6)
    for step in range(2):
        weight.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(1 + step))
        momentum = 0.9 * momentum + 0.1 * weight.grad
        update = orthogonalise((0.1 * weight.grad + 0.9 * momentum)[None], torch.float32)[0]
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 0.2 * math.sqrt(6) * update
        optimizer.step()
        assert torch.allclose(weight, expected, atol=1e-5)


def test_maps_that_are_stored_as_one_weight_are_orthogonalised_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    start, grad = torch.randn(9, 3, generator=generator), torch.randn(9, 3, generator=generator)
    weight, apart = nn.Parameter(start.clone()), [nn.Parameter(part.clone()) for part in start.chunk(3)]
    rule = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5, "kind": "muon"}
    weight.grad = grad
    for part, its in zip(apart, grad.chunk(3), strict=True):
        part.grad = its
    MuonAdamW([{"params": [weight], "stacked": 3, **rule}]).step()
    MuonAdamW([{"params": apart, "stacked": 1, **rule}]).step()
    assert torch.allclose(weight, torch.cat(apart), atol=1e-6)


def test_a_parameter_without_a_gradient_stays() -> None:
    idle, used = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    group = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5, **MUON}
    used.grad = torch.eye(2)
    MuonAdamW([{"params": [idle, used], **group}]).step()
    assert torch.equal(idle, torch.ones(2, 2)) and not torch.equal(used, torch.ones(2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 128, 64), (2, 64, 256), (1, 8, 200)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalise(1e-3 * torch.randn(shape, generator=g), dtype))
    # A square Gaussian has singular values down to 0, which five iterations cannot all lift.
    assert singular.max() < 1.3 and singular.quantile(0.03 if shape[1] == shape[2] else 0.0) > 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalising_keeps_the_singular_vectors_and_the_members_apart(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    stack = torch.randn(3, 16, 48, generator=g)
    u, _, vh = torch.linalg.svd(stack[1], full_matrices=False)
    once = orthogonalise(stack, dtype)
    assert torch.nn.functional.cosine_similarity(once[1].flatten(), (u @ vh).flatten(), dim=0) > 0.97
    assert torch.allclose(once[1:2], orthogonalise(stack[1:2], dtype), atol=0.02)
    assert torch.allclose(once, orthogonalise(100 * stack, dtype), atol=0.02) and once.dtype == torch.float32


@pytest.mark.parametrize("recipe", [AdamW(lr=0.01), Muon(lr=0.01)])
def test_a_saved_optimizer_goes_on_identically(recipe: AbstractOptimizer, tmp_path) -> None:
    whole = random_mmdit(depth=1)
    optimizer = recipe.build(whole)

    def steps(network: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for n in numbers:
            for i, p in enumerate(network.parameters()):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(1000 * n + i))
            optimizer.step()

    steps(whole, optimizer, range(2))
    torch.save({"weights": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.ckpt")
    steps(whole, optimizer, range(2, 4))
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    again = random_mmdit(depth=1)
    again.load_state_dict(saved["weights"])
    resumed = recipe.build(again)
    resumed.load_state_dict(saved["optimizer"])
    steps(again, resumed, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    "make",
    [lambda: AdamW(lr=0), lambda: AdamW(betas=(0.9, 1.0)), lambda: Muon(adamw_lr=-1), lambda: Muon(momentum=1.0)],
)
def test_optimizers_out_of_range(make) -> None:
    with pytest.raises(ValueError, match="need lr"):
        make()


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    schedule = LrSchedule(warmup_steps=4)
    assert [schedule.factor(step, 0.5) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert LrSchedule(warmup_steps=0).factor(0, 0.0) == 1


@pytest.mark.parametrize("progress", [0.0, 0.2, 0.6, 0.7, 1.0, 1.3])
def test_decays_are_their_formulas(progress: float) -> None:
    gone = min(max((progress - 0.2) / 0.8, 0), 1)

    def factor(decay: str) -> float:
        return LrSchedule(0, decay, decay_from=0.2, floor=0.1).factor(9, progress)

    assert factor("constant") == 1
    assert factor("linear") == pytest.approx(1 - 0.9 * gone)
    assert factor("cosine") == pytest.approx(0.1 + 0.9 * math.cos(math.pi * gone / 2) ** 2)


def test_warm_up_and_decay_multiply() -> None:
    assert LrSchedule(10, "linear").factor(4, 0.5) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="decay_from in"):
        LrSchedule(decay_from=1.0)


def test_adamw_keeps_fp32_state_under_bf16_and_moves_where_gradients_are_tiny() -> None:
    """eps 1e-15 (section 5.3.2): a gradient of 1e-11 moves its weight by the learning rate; 1e-8 would hold it."""
    network = nn.Linear(4, 4)
    optimizer = AdamW(lr=1e-3, weight_decay=0.0).build(network, torch.bfloat16)
    before = network.weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        out = network(torch.full((2, 4), 1.0))
    assert out.dtype == torch.bfloat16
    (1e-11 * out.float().sum()).backward()
    optimizer.step()
    torch.testing.assert_close(before - network.weight, torch.full((4, 4), 1e-3), rtol=1e-2, atol=0)
    state = [value for each in optimizer.state.values() for value in each.values()]
    assert len(state) == 6 and all(value.dtype == torch.float32 for value in state)
    assert AdamW().eps == 1e-15
