"""A paired comparison: half a percent that unpaired means miss is called, and nothing is not."""

import numpy as np
import pytest

from mmflow.batch import LEVELS
from mmflow.metrics.loss_surface import LossSurface, Row
from mmflow.metrics.paired import OVERALL, compare

N = 2000


def surfaces(
    better: float, seed: int = 0, on_clips: float | None = None, n: int = N
) -> tuple[LossSurface, LossSurface]:
    """Losses that spread by half from sample to sample, alike but for 4 % of noise; B is lower by `better`."""
    rng = np.random.default_rng(seed)
    base = np.exp(0.5 * rng.standard_normal((n, 1))) * np.linspace(1.5, 0.5, len(LEVELS))
    a = base * (1 + 0.04 * rng.standard_normal(base.shape))
    b = base * (1 + 0.04 * rng.standard_normal(base.shape))
    clip = np.arange(n) % 2 == 1
    gain = np.where(clip, better if on_clips is None else on_clips, better)
    b = b * (1 - gain[:, None])
    made = []
    for losses in (a, b):
        rows = [Row(("s", "t", str(i)), (4 if clip[i] else 1, 32, 32), {"ema": tuple(losses[i])}) for i in range(n)]
        made.append(LossSurface.of(rows, 100, {"seed": 0, "target": "eps - x0"}))
    return made[0], made[1]


def test_half_a_percent_that_unpaired_means_miss_is_called() -> None:
    found = compare(*surfaces(0.005), ("ema", "ema"))
    first = found.differences[0]
    assert first.stratum == OVERALL and first.verdict == "better" and first.n == N
    assert abs(first.change + 0.005) < first.half < 0.0025
    assert first.unpaired_half > 0.005 > abs(first.change) - first.half
    assert found.sentence("old", "new").startswith("new better by 0.")
    assert (found.only_a, found.only_b) == (0, 0)


def test_nothing_is_not_called() -> None:
    called = strata = 0
    for seed in range(40):
        found = compare(*surfaces(0.0, seed, n=300), ("ema", "ema"))
        called += found.differences[0].verdict != "no difference"
        strata += any(d.verdict != "no difference" for d in found.differences[1:])
    assert called <= 6 and strata <= 6
    assert "no difference between A and B" in compare(*surfaces(0.0), ("ema", "ema")).sentence()
    same = surfaces(0.0)[0]
    found = compare(same, same, ("ema", "ema"))
    assert {d.verdict for d in found.differences} == {"no difference"} and found.differences[0].half == 0


def test_intervals_cover_the_planted_difference() -> None:
    hits = 0
    for seed in range(60):
        first = compare(*surfaces(0.01, seed, n=200), ("ema", "ema")).differences[0]
        hits += abs(first.change + 0.01) <= first.half
    assert hits >= 52


def test_what_is_not_so_everywhere_is_said() -> None:
    sentence = compare(*surfaces(0.01, on_clips=0.0), ("ema", "ema")).sentence()
    assert sentence.startswith("B better by") and "; not on clips" in sentence
    sentence = compare(*surfaces(0.02, on_clips=-0.005), ("ema", "ema")).sentence()
    assert "B better by" in sentence and "worse on clips by" in sentence
    assert compare(*surfaces(-0.01), ("ema", "ema")).sentence().startswith("B worse by")


def test_samples_without_a_partner_are_counted_and_left_out() -> None:
    a, b = surfaces(0.005)
    fewer = LossSurface.of(b.rows[: N // 2], 100, b.question)
    found = compare(a, fewer, ("ema", "ema"))
    assert (found.only_a, found.only_b) == (N // 2, 0) and found.differences[0].n == N // 2


def test_what_does_not_compare_is_refused() -> None:
    a, b = surfaces(0.0, n=20)
    with pytest.raises(ValueError, match=r"different identity(.|\n)*seed: 0 -> 1"):
        compare(a, LossSurface.of(b.rows, 100, {**b.question, "seed": 1}), ("ema", "ema"))
    with pytest.raises(ValueError, match="share 5 samples of 20 and 5"):
        compare(a, LossSurface.of(b.rows[:5], 100, b.question), ("ema", "ema"))
    rows = [*b.rows[:-2], *(Row(r.key, r.shape, {"ema": (float("nan"),) * 8}) for r in b.rows[-2:])]
    with pytest.raises(ValueError, match="2 of 20 samples of B have a loss that is not finite"):
        compare(a, LossSurface.of(rows, 100, b.question), ("ema", "ema"))
    with pytest.raises(ValueError, match="no raw weights"):
        compare(a, b, ("ema", "raw"))
