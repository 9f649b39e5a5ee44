"""One sampler: a picture is a function of weights, prompt, seed and its own settings, and of nothing beside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmflow import draws
from mmflow.batch import Given, Known, Piece, Request, request_batches
from mmflow.encoders.autoencoder import RgbAutoencoder
from mmflow.encoders.bundle import Encoders
from mmflow.encoders.text import HashedWords
from mmflow.export import to_uint8
from mmflow.flow import formulations
from mmflow.flow.grid import ReleasedSd3
from mmflow.flow.objective import FlowObjective
from mmflow.flow.shift import SizeShift
from mmflow.flow.solver import AbstractSolver, DpmSolver2M, Euler, Heun, Midpoint
from mmflow.model.design import Design
from mmflow.train.sampling import Sampling, make
from tests.conftest import random_mmdit

CODEC = Encoders(RgbAutoencoder(scale=2.0), HashedWords(12, 4))
OBJECTIVE = FlowObjective(shift=SizeShift(base_area=64))
BACKBONE = random_mmdit(pooled_width=12)
SAMPLING = Sampling(num_steps=4, guidance_scale=3.0)
CPU = torch.device("cpu")
PROMPTS = ["a red circle", "a blue square left of a green cross", "", "two stars", "a red circle"]
REQUESTS = [Request(i, prompt, seed, 1, 8, 8) for i, (prompt, seed) in enumerate(zip(PROMPTS, range(5), strict=True))]


def made(requests: list[Request], sampling: Sampling = SAMPLING, backbone=BACKBONE) -> list[np.ndarray]:
    return make(backbone, OBJECTIVE, CODEC, requests, sampling, CPU)


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


ALONE = {r.index: made([r])[0] for r in REQUESTS}


def test_pictures_have_something_to_compare() -> None:
    for a in range(5):
        assert ALONE[a].shape == (1, 8, 8, 3) and ALONE[a].std() > 10
        assert all(distance(ALONE[a], ALONE[b]) > 40 for b in range(a))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0], [3, 1], [1, 1, 1, 0]])
def test_neighbours_and_order_do_not_show(order: list[int]) -> None:
    for index, picture in zip(order, made([REQUESTS[i] for i in order]), strict=True):
        assert distance(picture, ALONE[index]) <= 1


def test_the_index_does_not_show_but_seed_prompt_and_weights_do() -> None:
    first = REQUESTS[0]
    assert distance(made([replace(first, index=77)])[0], ALONE[0]) == 0
    for other in (replace(first, seed=9), replace(first, prompt="a red square")):
        assert distance(made([other])[0], ALONE[0]) > 10
    assert distance(made([first], backbone=random_mmdit(depth=1, pooled_width=12))[0], ALONE[0]) > 10


def test_guidance_is_each_request_s_own() -> None:
    scales = [1.0, None, 0.0, 6.0]
    requests = [replace(REQUESTS[0], guidance_scale=scale) for scale in scales]
    together = made(requests)
    for request, picture in zip(requests, together, strict=True):
        assert distance(picture, made([request])[0]) <= 1
    assert distance(together[1], ALONE[0]) <= 1
    assert all(distance(together[i], together[j]) > 2 for i in range(4) for j in range(i))


def test_without_guidance_the_null_half_is_not_computed() -> None:
    sizes: list[int] = []

    def counted(z, t, conditioning):
        sizes.append(len(t))
        return BACKBONE(z, t, conditioning)

    made(REQUESTS[:2], replace(SAMPLING, guidance_scale=1.0), counted)
    made(REQUESTS[:2], SAMPLING, counted)
    assert sizes == [2] * 4 + [4] * 4


def test_a_negative_prompt_takes_the_place_of_the_null_state() -> None:
    plain, empty, away, itself = (
        replace(REQUESTS[1], negative_prompt=negative) for negative in (None, "", "two stars", REQUESTS[1].prompt)
    )
    pictures = made([plain, empty, away, itself])
    assert distance(pictures[0], pictures[1]) <= 1 and distance(pictures[0], pictures[2]) > 2
    (unguided,) = made([replace(plain, guidance_scale=1.0)])
    assert distance(pictures[3], unguided) <= 1, "guidance away from the prompt itself is no guidance"


def test_steps_of_the_request_come_before_those_of_the_run() -> None:
    (asked,) = made([replace(REQUESTS[0], num_steps=2)])
    (set_,) = made(REQUESTS[:1], replace(SAMPLING, num_steps=2))
    assert distance(asked, set_) == 0 and distance(asked, ALONE[0]) > 2
    assert distance(made(REQUESTS[:1], replace(SAMPLING, solver=Heun()))[0], ALONE[0]) > 0


def test_a_constant_velocity_is_integrated_exactly() -> None:
    """z_0 = noise - v: the noise is the one that (seed, prompt) names, the pixels are its decoded latents."""
    request = replace(REQUESTS[3], frames=4)
    (clip,) = make(
        lambda z, t, c: tuple(torch.full_like(x, 0.3) for x in z), OBJECTIVE, CODEC, [request], SAMPLING, CPU
    )
    noise = draws.normal(request.seed, "eps", ("prompt", request.prompt), 0, (3, 4, 8, 8))
    assert distance(clip, to_uint8((noise - 0.3) / 2.0)) <= 1 and clip.shape == (4, 8, 8, 3)


def test_shapes_the_model_cannot_make() -> None:
    with pytest.raises(ValueError, match="7"):
        made([replace(REQUESTS[0], width=7)])
    with pytest.raises(ValueError, match="got 0, 64"):
        Sampling(num_steps=0)


def test_requests_of_one_shape_and_number_of_steps_go_together() -> None:
    shapes = [(1, 8, None), (4, 8, None), (1, 8, None), (1, 16, None), (1, 8, 3), (4, 8, None), (1, 8, None)]
    requests = [Request(i, "a", 0, t, h, 8, num_steps=s) for i, (t, h, s) in enumerate(shapes)]
    batches = [[r.index for r in batch] for batch in request_batches(reversed(requests), batch_size=2)]
    # Pictures two at a time; clips count as their frames, yet never fewer than one.
    assert sorted(batches) == [[0, 2], [1], [3], [4], [5], [6]]
    assert [b for b in ([r.index for r in x] for x in request_batches(requests, 64)) if len(b) == 3] == [[0, 2, 6]]
    assert list(request_batches([], 4)) == []


@pytest.mark.parametrize("solver", [Euler(), Heun(), Midpoint(), DpmSolver2M()], ids=str)
@pytest.mark.parametrize("name", ["eps/linear", "v/cos", "eps/cos", "edm(-1.20,1.20)", "edm/rf", "rf/mode(1.29)"])
def test_every_formulation_and_solver_makes_pictures(name: str, solver: AbstractSolver) -> None:
    objective, sampling = formulations.parse(name), replace(SAMPLING, solver=solver, num_steps=3)
    calls: list[int] = []

    def counted(z, t, conditioning):
        calls.append(len(t))
        return BACKBONE(z, t, conditioning)

    pair = make(counted, objective, CODEC, REQUESTS[:2], sampling, CPU)
    assert len(calls) == solver.evaluations(3)
    assert all(picture.std() > 10 for picture in pair) and distance(pair[0], pair[1]) > 40
    (alone,) = make(BACKBONE, objective, CODEC, REQUESTS[1:2], sampling, CPU)
    assert distance(alone, pair[1]) <= 1


def test_a_perfect_network_draws_the_data_whatever_the_formulation() -> None:
    """A world of one picture: every output follows from z_t, and what comes out is that picture."""
    picture = torch.linspace(-0.9, 0.9, 64).reshape(1, 1, 1, 8, 8).expand(1, 3, 1, 8, 8)
    for name in formulations.grid()[::4]:
        objective = formulations.parse(name)

        def network(z, t, conditioning, of=objective):
            a, b = (x.reshape(-1, 1, 1, 1, 1) for x in (of.path.a(t), of.path.b(t)))
            x0 = 2.0 * picture.expand(len(t), -1, -1, -1, -1)
            z_t = z[0] / of.prediction.input_scale(of.path, t).reshape(-1, 1, 1, 1, 1)
            return (of.prediction.target(of.path, x0, (z_t - a * x0) / b, t),)

        (made_one,) = make(network, objective, CODEC, REQUESTS[:1], SAMPLING, CPU)
        assert distance(made_one, to_uint8(picture[0])) <= 2, name


def test_guidance_interval_and_grid_are_settings() -> None:
    for other in (replace(SAMPLING, guidance_interval=(0.0, 0.5)), replace(SAMPLING, grid=ReleasedSd3())):
        assert distance(made(REQUESTS[:1], other)[0], ALONE[0]) > 1
    with pytest.raises(ValueError, match="guidance_interval"):
        Sampling(guidance_interval=(0.5, 0.5))


KNOWS = random_mmdit(pooled_width=12, design=Design(known=True))
FIRST = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
FROM_FIRST = replace(REQUESTS[1], frames=4, given=Given((Piece(0, FIRST, np.zeros((1, 8, 8), bool)),)))


def test_what_is_given_comes_back_and_is_looked_at() -> None:
    plain = replace(FROM_FIRST, given=None)
    together = made([FROM_FIRST, plain], backbone=KNOWS)
    assert np.array_equal(together[0][0], FIRST[0]) and distance(together[0][1:], together[1][1:]) > 5
    # Neighbours with and without a given part do not show.
    for request, clip in zip((FROM_FIRST, plain), together, strict=True):
        assert distance(made([request], backbone=KNOWS)[0], clip) <= 1
    (free,) = made([FROM_FIRST], replace(SAMPLING, known="free"), KNOWS)
    assert distance(free[0], FIRST[0]) > 20 and distance(free, together[0]) > 5


def test_guidance_away_from_nothing_given_is_a_setting() -> None:
    seen: list[Known] = []

    def looked_at(z, t, conditioning):
        seen.append(conditioning.known[0])
        return KNOWS(z, t, conditioning)

    dropped = made([FROM_FIRST], backbone=looked_at)[0]
    assert not seen[0].mask[0, :, 0].any() and seen[0].mask[1].all() and not seen[0].latents[1].any()
    seen.clear()
    kept = made([FROM_FIRST], replace(SAMPLING, null_known="kept"), looked_at)[0]
    assert torch.equal(seen[0].mask[0], seen[0].mask[1]) and torch.equal(seen[0].latents[0], seen[0].latents[1])
    assert distance(dropped, kept) > 2
