from dataclasses import dataclass

import pytest

from mmflow.metrics.geneval import exact, judge, overall, relations


@dataclass(frozen=True)
class Box:
    name: str
    color: str = "red"
    score: float = 0.95
    box: tuple[float, float, float, float] = (0.0, 0.0, 10.0, 10.0)


def at(name: str, x: float, y: float, **more) -> Box:
    return Box(name, box=(x - 5, y - 5, x + 5, y + 5), **more)


TASKS = {"color_attr": 400, "colors": 376, "position": 400, "counting": 320, "single_object": 320, "two_object": 396}
TABLE_4 = {
    "original": ((47, 269, 26, 107, 304, 164), (11.75, 71.54, 6.50, 33.44, 95.00, 41.41), 43.27),
    "50/50": ((99, 256, 72, 133, 300, 208), (24.75, 68.09, 18.00, 41.56, 93.75, 52.53), 49.78),
}
"""By captions in training: right pictures of each task, and the percentages and the overall score as printed."""


@pytest.mark.parametrize("captions", TABLE_4)
def test_golden_scores_of_the_paper(captions: str) -> None:
    """SD3, table 4: percentages that are exactly counts over four images of each prompt."""
    right, percent, published = TABLE_4[captions]
    counts = {task: (hits, n) for hits, (task, n) in zip(right, TASKS.items(), strict=True)}
    assert overall(counts) * 100 == pytest.approx(published, abs=0.005)
    assert [100 * hits / n for hits, n in counts.values()] == pytest.approx(percent, abs=0.00501)


def test_overall_is_of_all_tasks() -> None:
    with pytest.raises(ValueError, match="all of single_object"):
        overall({"colors": (1, 2)})


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (40, 50, set()),  # 10 - 0.1 * 20 leaves 8 of 10: left of
        (30, 50, {"left of"}),
        (70, 50, {"right of"}),
        (50, 30, {"above"}),
        (50, 70, {"below"}),
        (30, 30, {"left of", "above"}),
        (70, 60, {"right of"}),
        (51, 51, set()),
    ],
)
def test_relations(x: float, y: float, expected: set[str]) -> None:
    if (x, y) == (40, 50):
        expected = {"left of"}
    assert relations(at("a", x, y), at("b", 50, 50)) == expected


def test_the_offset_is_shortened_but_its_length_is_not() -> None:
    # dx = 4: 4 - 0.1 * 20 = 2, and 2 / 4 is not above one half
    assert relations(at("a", 54, 50), at("b", 50, 50)) == set()
    assert relations(at("a", 54.1, 50), at("b", 50, 50)) == {"right of"}
    assert relations(at("a", 52, 50), at("b", 50, 50)) == set()
    assert relations(at("a", 52, 50), at("b", 50, 50), threshold=0) == {"right of"}


def meta(tag: str, *include: dict, exclude: tuple = ()) -> dict:
    return {"tag": tag, "include": [{"count": 1, **each} for each in include], "exclude": list(exclude), "prompt": "p"}


def test_extra_objects_do_no_harm() -> None:
    assert judge(meta("single_object", {"class": "cup"}), [Box("cup"), Box("cup"), Box("dog")]) == (True, "")
    assert not exact(meta("single_object", {"class": "cup"}), [Box("cup"), Box("dog")])
    assert exact(meta("single_object", {"class": "cup"}), [Box("cup")])


def test_counting_is_exact_and_asks_for_more_confidence() -> None:
    two = meta("counting", {"class": "cup", "count": 2}, exclude=({"class": "cup", "count": 3},))
    assert judge(two, [Box("cup")] * 2)[0]
    assert judge(two, [Box("cup")] * 3) == (False, "expected cup<3, found 3")
    assert not judge(two, [Box("cup")])[0]
    assert judge(two, [Box("cup"), Box("cup"), Box("cup", score=0.8)])[0]
    assert not judge(two, [Box("cup"), Box("cup", score=0.8)])[0]
    assert judge(two, [Box("cup"), Box("cup", score=0.8)], count_threshold=0.5)[0]


def test_doubtful_objects_do_not_count() -> None:
    assert not judge(meta("single_object", {"class": "cup"}), [Box("cup", score=0.3)])[0]
    assert judge(meta("single_object", {"class": "cup"}), [Box("cup", score=0.31)])[0]


def test_colour_is_that_of_the_most_confident() -> None:
    red = meta("colors", {"class": "cup", "color": "red"})
    assert judge(red, [Box("cup", "red", 0.9), Box("cup", "blue", 0.8)])[0]
    assert judge(red, [Box("cup", "red", 0.8), Box("cup", "blue", 0.9)]) == (False, "expected red cup>=1, found blue")


def test_colours_are_bound_to_their_objects() -> None:
    both = meta("color_attr", {"class": "cup", "color": "red"}, {"class": "dog", "color": "blue"})
    assert judge(both, [Box("cup", "red"), Box("dog", "blue")])[0]
    assert not judge(both, [Box("cup", "blue"), Box("dog", "red")])[0]


def test_position_needs_its_target() -> None:
    left = meta("position", {"class": "dog"}, {"class": "cup", "position": ["left of", 0]})
    assert judge(left, [at("cup", 20, 50), at("dog", 60, 50)])[0]
    assert not judge(left, [at("cup", 60, 50), at("dog", 20, 50)])[0]
    right, reason = judge(left, [at("cup", 20, 50)])
    assert not right and "no target" in reason


def test_position_looks_at_the_most_confident() -> None:
    left = meta("position", {"class": "dog"}, {"class": "cup", "position": ["left of", 0]})
    crowd = [at("cup", 20, 50, score=0.6), at("cup", 90, 50, score=0.9), at("dog", 60, 50)]
    assert not judge(left, crowd)[0]
