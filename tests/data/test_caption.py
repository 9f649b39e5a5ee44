"""Captions from named values: columns, templates, class names, and what counts as none."""

import pytest

from mmflow.data.caption import CaptionRule, RowCaption, find_column, row_caption

CLASSES = {"label": ("cat", "sea horse")}


@pytest.mark.parametrize(
    ("value", "caption"),
    [
        (" a cat ", "a cat"),
        ("", None),
        (None, None),
        (float("nan"), None),
        (7, "7"),
        (["", "first", "second"], "first"),
        ([], None),
        (b"bytes", None),
        ({"bytes": b""}, None),
        ("ein Bär, 熊, دب", "ein Bär, 熊, دب"),
    ],
)
def test_a_column(value, caption) -> None:
    assert RowCaption("text")({"text": value}) == caption


@pytest.mark.parametrize(("label", "caption"), [(0, "a cat (3)"), (1, "a sea horse (3)"), (-1, None), (2, None)])
def test_a_template_with_class_names(label: int, caption: str | None) -> None:
    assert RowCaption(template="a {label} ({n x})", classes=CLASSES)({"label": label, "n x": 3}) == caption
    assert RowCaption("label", classes=CLASSES)({"label": label}) == (CLASSES["label"][label] if caption else None)


def test_a_value_with_braces_is_not_filled_in_again() -> None:
    assert RowCaption(template="{a} {b}")({"a": "{b}", "b": "x"}) == "{b} x"


def test_what_is_asked_for_must_be_there() -> None:
    assert row_caption(None, None, ("x", "TEXT", "prompt")).column == "TEXT"
    assert row_caption(None, None, ("x",)).names == ()
    assert find_column(("b", "a"), ("A", "a")) == "A"
    with pytest.raises(ValueError, match=r"here: no column 'y' \(--caption-column\)\. It has: x, z"):
        row_caption("y", None, ("x", "z"), where="here")
    with pytest.raises(ValueError, match=r"no column 'y' \(--template\)\. It has: x"):
        row_caption(None, "{x} of {y}", ("x",))
    with pytest.raises(ValueError, match=r"names no column in braces"):
        row_caption(None, "a photo", ("x",))


def test_files_without_a_caption() -> None:
    assert CaptionRule().fallback("a") is None
    assert CaptionRule("all").fallback("a") == "all"
    assert CaptionRule(from_filename=True).fallback("my_red-car  2") == "my red car 2"
    assert CaptionRule(from_filename=True).fallback("_") is None
