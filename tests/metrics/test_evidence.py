"""Which loss predicts, and which checkpoint to keep, on runs whose truth is planted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mmflow.batch import LEVELS
from mmflow.metrics.evidence import gather_evidence
from mmflow.metrics.interval import Interval
from mmflow.metrics.loss_surface import LossSurface, Row
from mmflow.metrics.recommend import agreement, predictors, recommend
from mmflow.metrics.signal_file import Round, folder_of
from mmflow.metrics.surface_file import surface_path, write_surface


def plant(
    run: Path, quality: Sequence[float], seed: int = 0, error: float = 0.01, identity: str = "a", question: int = 0
) -> Path:
    """A run of checkpoints of this quality: pictures' loss falls with it, clips' loss is noise, the score is it but for
    `error`."""
    rng = np.random.default_rng(seed)
    for i, q in enumerate(quality):
        step = 10 * (i + 1)
        rows = []
        for n in range(4):
            picture, clip = 1 - 0.5 * q + 0.002 * rng.standard_normal(8), 1 + 0.2 * rng.standard_normal()
            rows.append(Row(("s", "p", str(n)), (1, 32, 32), {"ema": tuple(picture)}))
            rows.append(Row(("s", "c", str(n)), (4, 32, 32), {"ema": (float(clip),) * len(LEVELS)}))
        write_surface(surface_path(run, step), LossSurface.of(rows, step, {"seed": question}))
        value = float(q + error * rng.standard_normal())
        score = Interval(value, value - 1.96 * error, value + 1.96 * error, 100)
        worse = Interval(-value, -value - 1.96 * error, -value + 1.96 * error, 100)
        folder_of(run, step).mkdir(parents=True)
        judged = {"samples": {"asked": identity}, "J": {"judge": "x"}}
        scores = {"ema": {"good": score, "distance": worse, "flat": Interval(0.5, 0.4, 0.6, 9)}}
        Round(step, scores, ("distance",), judged, 1.0, 0.01).write(folder_of(run, step))
    return run


QUALITY = np.random.default_rng(5).uniform(0.2, 0.8, 24)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted") / "run", QUALITY)


def test_losses_and_scores_of_a_checkpoint_stand_side_by_side(run: Path) -> None:
    evidence = gather_evidence([run])
    assert evidence.kind == "ema" and [p.step for p in evidence.points] == [10 * (i + 1) for i in range(24)]
    assert {"all", "picture", "clip", "picture t=0.5", "clip t=1.0"} <= set(evidence.strata())
    assert evidence.scores() == ["good", "distance"], "what never moves predicts nothing"
    np.testing.assert_allclose(evidence.score("distance")[0], evidence.score("good")[0])
    assert evidence.errors("good")[0] == pytest.approx(np.full(24, 0.01), rel=1e-3)


def test_agreement_has_the_sign_of_better(run: Path) -> None:
    evidence = gather_evidence([run])
    for score in ("good", "distance"):
        value, low, high, effective = agreement(evidence, score, "picture", "spearman")
        assert low < value < high <= 1 and value > 0.95 and low > 0.8 and effective > 15
        value, low, high, _ = agreement(evidence, score, "clip", "kendall")
        assert low < 0 < high


def test_the_stratum_that_predicts_is_found_on_held_out_checkpoints(run: Path) -> None:
    found = predictors(gather_evidence([run]), "good")
    by_name = {each.stratum: each for each in found}
    assert found[0].stratum.startswith("picture") and found[0].skill > 0.9
    assert by_name["clip"].skill < 0.2 and found[0].error < 0.03 and len(found[0].predictions) == 24


def test_the_checkpoint_to_keep_is_the_best_and_how_sure_that_is(tmp_path: Path) -> None:
    clear = [*QUALITY[:20], 0.95, *QUALITY[20:]]
    found = recommend(gather_evidence([plant(tmp_path / "clear", clear)]), "good")
    assert found.step == 210 and found.sure > 0.9 and "Keep clear at step 210" in found.sentence()
    noisy = recommend(gather_evidence([plant(tmp_path / "noisy", QUALITY, error=0.2)]), "good")
    assert noisy.sure < 0.8 and len(noisy.others) == 3
    best = int(np.argmax(QUALITY))
    assert QUALITY[noisy.step // 10 - 1] > QUALITY[best] - 0.1, "the loss says which of noisy scores to believe"


def test_probabilities_are_honest(tmp_path: Path) -> None:
    """Over many runs, what is called best is best about as often as it is said to be."""
    right, said = [], []
    for seed in range(20):
        quality = np.random.default_rng(seed).uniform(0.4, 0.6, 20)
        run = plant(tmp_path / str(seed), quality, seed=seed, error=0.03)
        found = recommend(gather_evidence([run]), "good")
        right.append(found.step // 10 - 1 == int(np.argmax(quality)))
        said.append(found.sure)
    assert abs(np.mean(right) - np.mean(said)) < 0.25


def test_a_line_that_errs_less_than_measuring_is_not_exact(tmp_path: Path) -> None:
    """Nine checkpoints whose scores lie nearer to the line than their intervals say they may: that is luck."""
    quality = np.random.default_rng(1).permutation(np.linspace(0.4, 0.5, 9))
    evidence = gather_evidence([plant(tmp_path / "lucky", quality, error=0.02)])
    for points in evidence.runs.values():
        for point in points:
            value = point.scores["good"].value
            point.scores["good"] = Interval(value, value - 0.1, value + 0.1, 12)  # type: ignore[index]
    found = recommend(evidence, "good")
    assert found.best[0].error < 0.05 and found.sure < 0.9


def test_several_runs_are_held_out_in_turn(tmp_path: Path) -> None:
    runs = [plant(tmp_path / f"r{i}", QUALITY[6 * i : 6 * i + 6], seed=i) for i in range(4)]
    evidence = gather_evidence(runs)
    assert list(evidence.runs) == ["r0", "r1", "r2", "r3"]
    assert recommend(evidence, "good").best[0].skill > 0.9
    same = [plant(tmp_path / str(i) / "run", QUALITY[:4], seed=i) for i in range(2)]
    assert list(gather_evidence(same).runs) == [str(run) for run in same]


def test_too_little_is_no_recommendation(tmp_path: Path) -> None:
    few = gather_evidence([plant(tmp_path / "few", QUALITY[:7])])
    with pytest.raises(ValueError, match="no recommendation from 7 checkpoints, 8 are the least"):
        recommend(few, "good")
    drift = gather_evidence([plant(tmp_path / "drift", [*np.linspace(0.2, 0.8, 10), *np.linspace(0.8, 0.2, 10)])])
    for points in drift.runs.values():  # what the loss does not see goes up and down once
        for i, point in enumerate(points):
            point.scores["good"] = Interval(0.5 + 0.3 * np.sin(i / 3), 0.4, 0.6, 100)  # type: ignore[index]
    with pytest.raises(ValueError, match="hang together so much"):
        recommend(drift, "good")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"no checkpoint has both\. Set trainer.val_check_interval"):
        gather_evidence([tmp_path / "nothing"])
    with pytest.raises(ValueError, match="raw weights measured"):
        gather_evidence([tmp_path / "few"], "raw")


def test_results_of_different_identity_are_refused(run: Path, tmp_path: Path) -> None:
    other = plant(tmp_path / "other", QUALITY[:8], identity="b")
    with pytest.raises(ValueError, match=r"scores of run at step 10 and other at step 10 are of different identity"):
        gather_evidence([run, other])
    other = plant(tmp_path / "third", QUALITY[:8], question=1)
    with pytest.raises(ValueError, match=r"validations of run(.|\n)*seed: 0 -> 1"):
        gather_evidence([run, other])
