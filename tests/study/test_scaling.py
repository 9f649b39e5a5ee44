"""Planted power laws are found, with intervals that cover; the best size for a budget; what is refused."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmflow.study.plan import Study, read_study
from mmflow.study.scaling import fit_power_law, fit_size_and_data, iso_flops
from mmflow.study.scaling_page import page
from mmflow.study.scaling_runs import Checkpoint, SizeRun, laws, read_runs
from tests.study.test_study import write_study

SIZES = (1e5, 3e5, 1e6, 3e6, 1e7)
FLOPS_PER_SAMPLE = 6.0


def planted(n: float, d: float, floor: float = 0.3) -> float:
    return floor + 40 * n**-0.4 + 8 * d**-0.35


def runs(noise: float = 0.0, seed: int = 0) -> list[SizeRun]:
    rng = np.random.default_rng(seed)
    found = []
    for place, n in enumerate(SIZES):
        steps = [100 * 2**k for k in range(7)]
        points = []
        for step in steps:
            loss = planted(n, 32 * step) * float(np.exp(noise * rng.standard_normal()))
            scores = {"score": 1 - loss, "kernel": loss}
            points.append(
                Checkpoint(
                    step, 32 * step, FLOPS_PER_SAMPLE * n * 32 * step, {"pictures": loss, "clips": 2 * loss}, scores
                )
            )
        found.append(SizeRun(str(place + 1), "0", int(n), 1.0, tuple(points)))
    return found


def test_a_planted_power_law_is_found_exactly() -> None:
    fit = fit_power_law(SIZES, [5 * n**-0.2 for n in SIZES])
    assert fit.parameter(1).value == pytest.approx(0.2, abs=1e-9)
    assert math.exp(fit.parameter(0).value) == pytest.approx(5, rel=1e-8)
    assert fit.predict(1e8).value == pytest.approx(5 * 1e8**-0.2, rel=1e-8)
    two = fit_power_law(SIZES[:2], [5 * n**-0.2 for n in SIZES[:2]])  # passes through both: no interval
    assert two.free == 0 and math.isnan(two.predict(1e8).low) and two.predict(1e8).value == pytest.approx(5 * 1e8**-0.2)


def test_intervals_of_an_exponent_and_of_a_prediction_cover() -> None:
    rng = np.random.default_rng(0)
    hits = np.zeros(2)
    for _ in range(300):
        noisy = [5 * n**-0.2 * math.exp(0.03 * rng.standard_normal()) for n in SIZES]
        fit = fit_power_law(SIZES, noisy)
        further = 5 * 3e7**-0.2 * math.exp(0.03 * rng.standard_normal())
        hits += [fit.parameter(1).covers(0.2), fit.predict(3e7).covers(further)]
    assert np.all((hits / 300 > 0.91) & (hits / 300 < 0.985))


def test_a_planted_law_of_size_and_data_is_found() -> None:
    points = [(n, 32.0 * 100 * 2**k) for n in SIZES for k in range(7)]
    fit = fit_size_and_data(*zip(*points, strict=True), [planted(n, d) for n, d in points])
    assert fit.parameter(0, math.exp).value == pytest.approx(0.3, rel=1e-3)
    assert fit.parameter(2, math.exp).value == pytest.approx(0.4, rel=1e-3)
    assert fit.parameter(4, math.exp).value == pytest.approx(0.35, rel=1e-3)
    assert fit.predict(3e7, 1e5).value == pytest.approx(planted(3e7, 1e5), rel=1e-4)


def test_the_held_out_run_is_predicted_and_the_error_told() -> None:
    found = laws(runs(noise=0.005), "5", "pictures")
    joint = [each for each in found.predicted if each.law == "L(N, D)"]
    assert found.step == 6400 and joint and all(abs(each.error) < 2 for each in joint)
    assert all(each.said.covers(each.measured) for each in joint)
    (by_size,) = [each for each in found.predicted if each.law == "L(N)"]
    assert by_size.measured == pytest.approx(runs(noise=0.005)[4].at(6400).losses["pictures"])
    assert by_size.error < -1  # a law without a floor is too hopeful of what has one


def test_the_best_size_for_a_budget() -> None:
    """On L = E + A N^-a + B D^-b with C = 6 N D the best N is (a A / b B)^(1/(a+b)) (C/6)^(b/(a+b))."""
    curves = {}
    for n in np.geomspace(1e4, 1e8, 13):
        d = np.geomspace(1e3, 1e9, 60)
        curves[float(n)] = (FLOPS_PER_SAMPLE * n * d, np.array([planted(n, each) for each in d]))
    for found in iso_flops(curves, budgets=3)[1:2]:
        best = (0.4 * 40 / (0.35 * 8)) ** (1 / 0.75) * (found.flops / 6) ** (0.35 / 0.75)
        assert found.edge == "" and found.best == pytest.approx(best, rel=0.1)
    few = {n: curves[n] for n in sorted(curves)[-3:]}
    assert iso_flops(few, budgets=1)[0].edge == "smallest" and math.isnan(iso_flops(few, budgets=1)[0].best)
    assert iso_flops({n: curves[n] for n in list(curves)[:2]}) == []


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="2 different sizes"):
        fit_power_law([1e5, 1e5], [1.0, 2.0])
    with pytest.raises(ValueError, match="positive and finite"):
        fit_power_law([1e5, 1e6], [1.0, float("nan")])
    with pytest.raises(ValueError, match=r"5.* is no size of these: 1, 2"):
        laws(runs()[:3], "5", "pictures")
    with pytest.raises(ValueError, match="not the largest"):
        laws(runs(), "2", "pictures")


def test_a_study_with_one_depth_is_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path, axes={"model.backbone.init_args.depth": [1]}, rows="model.backbone.init_args.depth")
    with pytest.raises(ValueError, match=r"needs 3 sizes, 2 to fit and one to predict; .* has 1"):
        read_runs(read_study(path))
    several = yaml.safe_load(path.read_text()) | {"axes": {"model.backbone.init_args.depth": [1, 2, 3]}}
    path.write_text(yaml.safe_dump(several))
    with pytest.raises(ValueError, match="0 sizes are done"):
        read_runs(read_study(path))


def test_the_page_says_scale_laws_and_errors(tmp_path: Path) -> None:
    study = Study("base.yaml", "out", {"depth": [1, 2, 3, 4, 5]}, rows="depth", curve=True)
    text = page(study, runs(noise=0.01), "5", 0, tmp_path / "scaling.md", command="study.py scale")
    assert text == (tmp_path / "scaling.md").read_text()
    for words in ("## Losses", "## Power laws", "## What the smaller ones say of depth 5", "## The best size", "| 5 |"):
        assert words in text
    assert (tmp_path / "scaling_loss.png").stat().st_size > 10_000
    assert (tmp_path / "scaling_scores.png").stat().st_size > 10_000
