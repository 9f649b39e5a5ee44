"""Validation loss: a network that is wrong by a known amount at each level has a known surface."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmflow.batch import LEVELS
from mmflow.flow.objective import FlowObjective
from mmflow.metrics.interval import bootstrap_means, interval_of
from mmflow.metrics.loss_surface import LossSurface, Row
from mmflow.metrics.surface_file import read_surface, surface_path, surface_paths, write_surface

DELTAS = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 100.0], dtype=torch.float64)
SQUARES = DELTAS.square()
MEAN = SQUARES[:-1].mean().item()


def rows(frames: int, samples: int, gain: float = 1.0, source: str = "s", side: int = 4) -> list[Row]:
    """Rows of the network v* + gain delta_k, from the objective itself."""
    t = torch.tensor(LEVELS).repeat(samples)
    g = torch.Generator().manual_seed(frames)
    x0, eps = (torch.randn(len(t), 3, frames, 4, 4, generator=g) for _ in range(2))

    def network(z, t, conditioning):
        delta = gain * DELTAS[(t * len(LEVELS)).round().long() - 1]
        return ((eps - x0) + delta.float().view(-1, 1, 1, 1, 1),)

    loss, _ = FlowObjective().at(network, (x0,), None, t, (eps,))
    assert loss.dtype == torch.float64
    table = loss.reshape(samples, -1).tolist()
    return [Row((source, "a", str(i)), (frames, side, side), {"raw": tuple(each)}) for i, each in enumerate(table)]


def surface(*parts: list[Row]) -> LossSurface:
    return LossSurface.of([row for part in parts for row in part], 7, {"seed": 0})


def test_each_level_is_its_own_error_squared_and_the_last_is_left_out() -> None:
    values = surface(rows(1, 5), rows(2, 3, gain=2.0)).scalars("raw")
    for name, gain in (("picture", 1), ("clip", 4)):
        for k, level in enumerate(LEVELS):
            assert values[f"val/loss_{name}/t={level}"] == pytest.approx(gain * SQUARES[k].item(), rel=1e-4)
        assert values[f"val/loss_{name}"] == pytest.approx(gain * MEAN, rel=1e-4)
    # The mean of the two media, however many samples each has.
    assert values["val/loss"] == pytest.approx(2.5 * MEAN, rel=1e-4)
    assert values["val/loss_low"] <= values["val/loss"] <= values["val/loss_high"]
    assert len(values) == 3 + 2 * (3 + len(LEVELS))


def test_resolutions_durations_sources_and_their_cells_are_strata_where_there_are_several() -> None:
    parts = [
        rows(1, 2, source="a", side=64),
        rows(1, 3, gain=2.0, source="b", side=256),
        rows(1, 1, gain=3.0, source="c", side=250),
        rows(4, 2, source="a", side=64),
    ]
    found = surface(*parts)
    assert {name: int(of.sum()) for name, of in found.strata.items()} == {
        "picture": 6,
        **{"picture/64px": 2, "picture/256px": 4, "picture/a": 2, "picture/b": 3, "picture/c": 1},
        **{"picture/64px/a": 2, "picture/256px/b": 3, "picture/256px/c": 1},
        "clip": 2,
    }
    values = found.scalars("raw", "val_raw")
    assert values["val_raw/loss_picture/256px"] == pytest.approx((3 * 4 + 9) / 4 * MEAN, rel=1e-4)
    assert values["val_raw/loss_picture/b"] == pytest.approx(4 * MEAN, rel=1e-4)


def test_the_order_of_the_rows_does_not_show_and_none_comes_twice() -> None:
    whole = [*rows(1, 5), *rows(2, 3)]
    one, other = LossSurface.of(whole, 7, {}), LossSurface.of(whole[::-1], 7, {})
    assert one.scalars("raw") == other.scalars("raw") and one.names == other.names
    with pytest.raises(ValueError, match="validated twice"):
        LossSurface.of([*whole, whole[0]], 7, {})


def test_without_samples_there_is_no_value() -> None:
    assert surface().scalars("raw") == {} and surface().kinds == ()
    with pytest.raises(ValueError, match="no validation sample"):
        surface().mean("raw")


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        values = rng.exponential(1.0, (60, 1))
        interval = interval_of(values.mean(), bootstrap_means(values, seed=trial)[:, 0], 60)
        hits += interval.low <= 1.0 <= interval.high
    assert 87 <= hits <= 99
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_means(np.zeros((0, 1)))


def test_a_surface_comes_back_from_its_file(tmp_path: Path) -> None:
    written = surface(rows(1, 3), rows(4, 2))
    write_surface(surface_path(tmp_path, 7), written)
    write_surface(surface_path(tmp_path, 3), LossSurface.of(rows(1, 1), 3, {}))
    assert list(surface_paths(tmp_path)) == [3, 7]
    read = read_surface(tmp_path)
    assert read.rows == written.rows and (read.step, read.question) == (7, {"seed": 0})
    assert read_surface(surface_path(tmp_path, 3)).step == 3


def test_what_is_no_surface_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no surface"):
        read_surface(tmp_path)
    with pytest.raises(ValueError, match="no validation surface at"):
        read_surface(tmp_path / "nowhere.parquet")
    (tmp_path / "x.parquet").write_bytes(b"PAR1nothing")
    with pytest.raises(ValueError, match="cut short"):
        read_surface(tmp_path / "x.parquet")
