"""Validation loss: a network that is wrong by a known amount at each level has a known loss."""

import pytest
import torch

from mmflow.batch import LEVELS
from mmflow.flow.objective import FlowObjective
from mmflow.metrics.level_loss import NUM_LEVELS, LevelLoss

DELTAS = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 100.0])


def losses(frames: int, samples: int, gain: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, t, clip) of the network v* + gain delta_k, from the objective itself."""
    t = torch.tensor(LEVELS).repeat(samples)
    g = torch.Generator().manual_seed(frames)
    x0, eps = (torch.randn(len(t), 3, frames, 4, 4, generator=g) for _ in range(2))

    def network(z, t, conditioning):
        delta = gain * DELTAS[(t * NUM_LEVELS).round().long() - 1]
        return ((eps - x0) + delta.view(-1, 1, 1, 1, 1),)

    loss, t = FlowObjective().at(network, (x0,), None, t, (eps,))
    return loss, t, torch.full((len(t),), frames > 1)


def test_each_level_is_its_own_error_squared_and_the_last_is_left_out() -> None:
    metric = LevelLoss()
    metric.update(*losses(frames=1, samples=5))
    metric.update(*losses(frames=2, samples=3, gain=2.0))
    values = metric.compute()
    squares = DELTAS.double().square()
    for name, gain in (("picture", 1), ("clip", 4)):
        for k, level in enumerate(LEVELS):
            assert values[f"val/loss_{name}/t={level}"] == pytest.approx(gain * squares[k].item(), rel=1e-4)
        assert values[f"val/loss_{name}"] == pytest.approx(gain * squares[:-1].mean().item(), rel=1e-4)
    # The mean of the two media, however many samples each has.
    assert values["val/loss"] == pytest.approx(2.5 * squares[:-1].mean().item(), rel=1e-4)
    assert len(values) == 3 + 2 * NUM_LEVELS


def test_uneven_levels_do_not_weigh_more() -> None:
    metric = LevelLoss()
    loss, t, clip = losses(frames=1, samples=4)
    kept = torch.tensor([i < NUM_LEVELS or i % NUM_LEVELS < 2 for i in range(len(t))])
    metric.update(loss[kept], t[kept], clip[kept])
    assert metric.compute()["val/loss"] == pytest.approx(DELTAS[:-1].double().square().mean().item(), rel=1e-4)


def test_one_medium_alone_is_the_whole() -> None:
    metric = LevelLoss()
    metric.update(*losses(frames=2, samples=1))
    values = metric.compute()
    assert values["val/loss"] == values["val/loss_clip"] and not any("picture" in name for name in values)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_all_levels_there_is_no_value() -> None:
    assert LevelLoss().compute() == {}
    metric = LevelLoss()
    loss, t, clip = losses(frames=1, samples=1)
    metric.update(loss[1:], t[1:], clip[1:])
    assert metric.compute() == {}


@pytest.mark.parametrize("cut", [0, 3, 11, 24])
def test_parts_merge_to_the_whole(cut: int) -> None:
    whole, first, second = LevelLoss(), LevelLoss(), LevelLoss()
    parts = losses(frames=1, samples=3)
    whole.update(*parts)
    first.update(*(x[:cut] for x in parts))
    second.update(*(x[cut:] for x in parts))
    first.merge_state(second)
    assert torch.equal(first.count, whole.count) and torch.allclose(first.total, whole.total, rtol=1e-12)
    assert first.compute() == pytest.approx(whole.compute(), rel=1e-9)


def test_a_reset_forgets() -> None:
    metric = LevelLoss()
    metric.update(*losses(frames=1, samples=2, gain=3.0))
    metric.compute()
    metric.reset()
    metric.update(*losses(frames=1, samples=1))
    assert metric.compute()["val/loss"] == pytest.approx(DELTAS[:-1].double().square().mean().item(), rel=1e-4)
