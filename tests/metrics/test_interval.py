import pytest

from mmflow.metrics.interval import bootstrap, wilson


def test_wilson_matches_published_values() -> None:
    half = wilson(200, 400)
    assert (half.high - half.low) / 2 == pytest.approx(0.0488, abs=2e-4)
    assert wilson(0, 10).low == 0 and wilson(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    assert wilson(10, 10).high == 1 and wilson(10, 10).low == pytest.approx(0.7225, abs=1e-4)


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (3, 2), (-1, 5)])
def test_impossible_rates_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {hits} of {n}"):
        wilson(hits, n)


def test_bootstrap_is_macro_over_groups_and_resamples_prompts() -> None:
    groups = {"a": [[1.0, 1.0], [0.0, 0.0]], "b": [[1.0]] * 9}
    interval = bootstrap(groups)
    assert interval == bootstrap(groups)
    assert interval.value == 0.75 and interval.n == 13
    assert (interval.low, interval.high) == (0.5, 1.0)  # group a draws two prompts of two: 0, 1/2 or 1


def test_images_of_one_prompt_do_not_narrow_the_interval() -> None:
    few = bootstrap({"a": [[float(i % 2)] for i in range(40)]})
    many = bootstrap({"a": [[float(i % 2)] * 25 for i in range(40)]})
    assert many.high - many.low == pytest.approx(few.high - few.low)


def test_empty_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        bootstrap({"a": []})
