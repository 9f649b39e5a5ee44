"""Which checkpoints are whole, which is the newest, and which may go."""

import os
from pathlib import Path

import pytest

from mmflow.train import saved
from mmflow.train.saved import complete, mark_of, newest, publish, remove, retain, sweep


def save(run: Path, step: int, sharded: bool = False) -> Path:
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    writing = folder / f".step-{step:09d}.part"
    if sharded:
        writing.mkdir()
        (writing / "plain.pt").write_text(str(step))
    else:
        writing.write_text(str(step))
    return publish(writing, step)


def steps(run: Path) -> list[int]:
    return [int(path.stem.split("-")[1]) for path in complete(run / "checkpoints")]


@pytest.mark.parametrize("sharded", [False, True])
def test_the_newest_is_the_one_that_was_saved_last(sharded: bool, tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    for step in (2, 4, 3, 4):
        target = save(tmp_path, step, sharded)
        last = tmp_path / "checkpoints" / "last.ckpt"
        assert newest(tmp_path) == last and last.samefile(target)
    assert steps(tmp_path) == [2, 3, 4]
    # Going back and saving again makes an earlier step the newest.
    save(tmp_path, 3, not sharded)
    assert steps(tmp_path) == [2, 4, 3]


@pytest.mark.parametrize("sharded", [False, True])
def test_what_is_not_whole_is_passed_over(sharded: bool, tmp_path: Path) -> None:
    first, second, third = (save(tmp_path, step, sharded) for step in (1, 2, 3))
    data = third / "plain.pt" if sharded else third
    data.write_text("")
    assert newest(tmp_path) == second
    mark_of(second).unlink()
    assert newest(tmp_path) == first
    mark_of(first).write_text("{")
    assert newest(tmp_path) is None


def test_files_that_were_saved_before_there_were_marks(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_text("x")
    assert newest(tmp_path) == tmp_path / "checkpoints" / "last.ckpt"


def test_the_last_whole_one_stays(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    kept, broken = save(tmp_path, 5), save(tmp_path, 6)
    broken.write_text("")
    retain(folder, 1)
    assert kept.exists() and steps(tmp_path) == [5]
    mark_of(kept).unlink()
    retain(folder, 1)
    assert kept.exists(), "with nothing whole, nothing is taken away"
    for step in (7, 8, 9):
        save(tmp_path, step)
    retain(folder, 2)
    assert steps(tmp_path) == [8, 9] and not kept.exists()
    retain(folder, -1)
    assert steps(tmp_path) == [8, 9]


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("stop", range(20))
def test_a_stop_anywhere_in_a_save_leaves_the_one_before(
    stop: int, sharded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every change of the disk is a place to stop at: before it is done."""

    class StopError(BaseException):
        pass

    save(tmp_path, 1, sharded)
    left = stop

    def counted(name: str, owner: object = os) -> None:
        real = getattr(owner, name)

        def call(*args: object, **kwargs: object) -> object:
            nonlocal left
            if left == 0:
                raise StopError
            left -= 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    for name in ("replace", "link", "fsync", "symlink"):
        counted(name)
    counted("sync_folder", saved)
    try:
        save(tmp_path, 2, sharded)
        retain(tmp_path / "checkpoints", 1)
    except StopError:
        pass
    monkeypatch.undo()
    found = newest(tmp_path)
    assert found is not None
    text = (found / "plain.pt").read_text() if found.is_dir() else found.read_text()
    assert text in ("1", "2") and (text == "2" or stop < 20)
    sweep(tmp_path / "checkpoints")
    assert newest(tmp_path) is not None and not list((tmp_path / "checkpoints").glob(".*.part"))
    save(tmp_path, 3, sharded)
    assert steps(tmp_path)[-1] == 3


def test_taking_away_begins_with_the_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = save(tmp_path, 1, sharded=True)
    monkeypatch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        remove(target)
    assert target.exists() and newest(tmp_path) is None
