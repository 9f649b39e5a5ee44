"""Closed forms of the diffusion paths: oracles, derivatives, log-SNR, inverses and usable ranges."""

import math

import pytest
import torch
from scipy import stats

from mmflow.flow.diffusion_path import Cosine, Edm, Exploding, LdmLinear
from mmflow.flow.path import AbstractPath, RectifiedFlow
from tests.flow.gaussian import PATHS

EDGES = (Edm(-1.2, 0.6), Edm(-1.2, 1.8), Edm(1.2, 0.6), Edm(1.2, 1.8))
ALL = (*PATHS, *EDGES)


def inside(path: AbstractPath, n: int = 41) -> torch.Tensor:
    """Times within the usable range, none of them on a step of LDM's table, where the slope jumps."""
    low, high = path.usable
    return torch.linspace(low + 1e-4 * (high - low), high - 1.1e-4 * (high - low), n, dtype=torch.float64)


@pytest.mark.parametrize("path", ALL, ids=str)
def test_derivatives_agree_with_autograd(path: AbstractPath) -> None:
    for f, df in ((path.a, path.da), (path.b, path.db), (path.log_snr, path.log_snr_slope)):
        t = inside(path).requires_grad_()
        out = f(t)
        grad = torch.autograd.grad(out.sum(), t)[0] if out.requires_grad else torch.zeros_like(t)
        assert torch.allclose(grad, df(t.detach()), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("path", ALL, ids=str)
def test_noise_share_is_that_of_the_log_snr_and_time_is_its_inverse(path: AbstractPath) -> None:
    t = inside(path)
    share = path.noise_share(t)
    assert torch.allclose(share, path.b(t) / (path.a(t) + path.b(t)), rtol=1e-9)
    assert torch.allclose(share, torch.sigmoid(-path.log_snr(t) / 2), rtol=1e-9)
    assert torch.allclose(path.time(share), t, atol=1e-9)
    assert (share.diff() > 0).all()
    low, high = path.usable
    assert path.time(torch.tensor([1e-7, 1 - 1e-7], dtype=torch.float64)).tolist() == pytest.approx(
        [low, high], abs=1e-6
    )


@pytest.mark.parametrize("path", ALL, ids=str)
def test_straightened_velocity_is_eps_minus_x0(path: AbstractPath) -> None:
    g = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(41, 2, dtype=torch.float64, generator=g) for _ in range(2))
    t = inside(path)
    straight = path.straighten(path.velocity(x0, eps, t), path.interpolate(x0, eps, t), t)
    assert torch.allclose(straight, eps - x0, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("path", ALL, ids=str)
def test_everything_is_finite_in_fp32_up_to_the_ends(path: AbstractPath) -> None:
    t = path.clamp(torch.tensor([0.0, 1e-7, 0.5, 1 - 6e-8, 1.0]))
    path.check(t)
    for f in (path.a, path.b, path.da, path.db, path.noise_share):
        assert torch.isfinite(f(t)).all(), f


def test_cosine_oracles() -> None:
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    assert torch.allclose(torch.exp(-Cosine().log_snr(t) / 2), torch.tan(math.pi * t / 2))
    assert torch.exp(-Cosine().log_snr(t) / 2)[0].item() == pytest.approx(0.32492, abs=1e-5)
    assert torch.allclose(Cosine().log_snr_slope(t), -2 * math.pi / torch.sin(math.pi * t))
    ends = torch.tensor([0.0, 1.0])
    assert Cosine().a(ends).tolist() == [1.0, 0.0] and Cosine().b(ends).tolist() == [0.0, 1.0]


def test_ldm_linear_oracles() -> None:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    path = LdmLinear()
    assert path.log_snr(ends).tolist() == pytest.approx([7.069, -5.364], abs=1e-3)
    assert path.a(ends)[1].item() == pytest.approx(0.0683, abs=1e-4)
    assert path.b(ends)[1].item() == pytest.approx(0.9977, abs=1e-4)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    steps = torch.arange(1000, dtype=torch.float64) / 999
    assert torch.allclose(path.a(steps).square(), torch.cumprod(1 - betas, 0), rtol=1e-9)


def test_edm_noise_is_log_normal() -> None:
    u = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_noise = Edm(-1.2, 1.2).b(u).log()
    assert stats.kstest(log_noise.numpy(), "norm", args=(-1.2, 1.2)).pvalue > 0.01
    assert Edm(-1.2, 1.2).b(torch.tensor([0.5]).double()).item() == pytest.approx(math.exp(-1.2))


def test_edm_starts_at_the_largest_noise_that_its_density_reaches() -> None:
    for path, largest in ((Edm(-1.2, 1.2), math.exp(-1.2 + 4.5 * 1.2)), (Edm(0.6, 1.2), 80.0), (Edm(0.0, 0.6), 14.88)):
        t = torch.tensor([path.usable[1]], dtype=torch.float64)
        assert path.b(t).item() == pytest.approx(largest, rel=1e-3)


def test_exploding_paths_have_the_log_snr_of_their_model() -> None:
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    assert torch.allclose(Exploding(RectifiedFlow()).b(t), t / (1 - t))
    assert torch.allclose(Exploding(Cosine()).b(t), torch.tan(math.pi * t / 2))
    assert torch.allclose(Exploding(Cosine()).log_snr(t), Cosine().log_snr(t))


def test_a_shift_lowers_the_log_snr_by_twice_the_log_of_alpha_on_every_path() -> None:
    alpha = torch.full((3,), 2.0, dtype=torch.float64)
    for path in PATHS:
        t = path.time(torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64))
        moved = path.shifted(t, alpha)
        assert torch.allclose(path.log_snr(moved), path.log_snr(t) - 2 * math.log(2), atol=1e-6)


def test_times_outside_the_usable_range_are_refused() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"usable range of Edm\(mean=-1\.2.*got 1 for sample 1"):
        Edm().interpolate(x, x, torch.tensor([0.5, 1.0]))
    with pytest.raises(ValueError, match=r"\[0, 1\].*got 1\.5 for sample 0"):
        RectifiedFlow().interpolate(x, x, torch.tensor([1.5, 0.1]))
    with pytest.raises(ValueError, match="nan"):
        Cosine().check(torch.tensor([float("nan")]))


@pytest.mark.parametrize("std", [0.0, -1.0])
def test_a_p_s_that_is_not_positive_is_an_error(std: float) -> None:
    with pytest.raises(ValueError, match=f"P_s.*{std}"):
        Edm(0.0, std)


def test_impossible_schedules_are_errors() -> None:
    with pytest.raises(ValueError, match="beta_start"):
        LdmLinear(beta_start=0.02, beta_end=0.01)
    with pytest.raises(ValueError, match="min_noise"):
        Exploding(Cosine(), min_noise=1.0, max_noise=0.5)
    with pytest.raises(ValueError, match="no noise level"):
        Edm(mean=20.0, std=0.1)
