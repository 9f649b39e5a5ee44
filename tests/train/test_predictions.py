"""What `predict` does with pictures that lie where it writes."""

from pathlib import Path

from mmflow.train.predictions import set_aside


def test_what_was_made_before_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "predictions"
    assert set_aside(folder) is None
    for k in (1, 2):
        folder.mkdir()
        (folder / "00000.png").write_text(f"the picture of predict {k}")
        assert set_aside(folder) is None  # one that was stopped: its samples are made again
        (folder / "index.jsonl").write_text("")
        assert set_aside(folder) == tmp_path / f"predictions-{k}"
        assert not folder.exists()
    assert (tmp_path / "predictions-1" / "00000.png").read_text() == "the picture of predict 1"
    assert (tmp_path / "predictions-2" / "00000.png").read_text() == "the picture of predict 2"
