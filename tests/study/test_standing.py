"""From a table to ranks: the paper's Table 2 through the table's own format, and grids with holes."""

from pathlib import Path

import pytest

from mmflow.study.standing import Metrics, measured, rank_columns
from mmflow.study.table import Row, read_table, write_table
from tests.metrics.test_ranking import TABLE_2

CLIP_FID = Metrics("clip", "fid")


def table_2() -> list[Row]:
    return [
        {
            "model.formulation": name,
            "data": data,
            "seed": "0",
            "weights": "ema",
            "solver": "Euler",
            "num_steps": 25.0,
            "guidance_scale": 5.0,
            "clip": row[at],
            "fid": row[at + 1],
        }
        for name, row in TABLE_2.items()
        for at, data in ((0, "ImageNet"), (2, "CC12M"))
    ]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_the_paper_s_table_2(suffix: str, tmp_path: Path) -> None:
    write_table(table_2(), tmp_path)
    rows = read_table(tmp_path / f"table.{suffix}")
    (found,) = rank_columns(rows, "model.formulation", CLIP_FID).values()
    assert {each.name: each.rank for each in found} == {name: (row[4] + row[5]) / 2 for name, row in TABLE_2.items()}


def test_a_hole_in_the_grid_is_named_and_not_filled() -> None:
    rows = [row for row in table_2() if (row["model.formulation"], row["data"]) != ("v/cos", "CC12M")]
    with pytest.raises(ValueError, match=r"1 of 20 are missing(.|\n)*v/cos, data CC12M.*25.*seed 0"):
        measured(rows, "model.formulation", CLIP_FID)
    rows = [{**row, "fid": None} if row["model.formulation"] == "rf" else row for row in table_2()]
    with pytest.raises(ValueError, match="2 of 20 are missing"):
        measured(rows, "model.formulation", CLIP_FID)


def test_a_cell_that_left_no_row_is_missed_where_the_study_is_known() -> None:
    expected = [{"model.formulation": name, "data": "ImageNet", "seed": "0"} for name in [*TABLE_2, "rf/cosmap"]]
    rows = [row for row in table_2() if row["data"] == "ImageNet"]
    with pytest.raises(ValueError, match=r"1 of 11 are missing(.|\n)*rf/cosmap"):
        measured(rows, "model.formulation", CLIP_FID, expected)


def test_what_does_not_belong_together_is_refused() -> None:
    rows = [{**row, "controls": "a" if row["data"] == "CC12M" else "b"} for row in table_2()]
    with pytest.raises(ValueError, match="unequal controls"):
        measured(rows, "model.formulation", CLIP_FID)
    with pytest.raises(ValueError, match="twice"):
        measured([*table_2(), table_2()[0]], "model.formulation", CLIP_FID)
    with pytest.raises(ValueError, match=r"'depth'.*model.formulation, data, seed"):
        measured(table_2(), "depth", CLIP_FID)


def test_columns_are_all_fewest_and_most_steps_at_the_largest_guidance() -> None:
    settings = ((50, 1.0), (50, 5.0), (5, 5.0), (2, 1.0))
    rows = [{**row, "num_steps": s, "guidance_scale": g} for row in table_2() for s, g in settings]
    found = rank_columns(rows, "model.formulation", CLIP_FID)
    assert list(found) == ["all", "5 steps", "50 steps"]
    _, whole = measured(rows, "model.formulation", CLIP_FID)
    assert whole.values.shape == (2 * 4, 1, 10, 2)


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match=r"a\.csv is no table of a study"):
        read_table(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="collect"):
        read_table(tmp_path / "nowhere")
