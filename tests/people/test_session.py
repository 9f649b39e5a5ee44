"""What is put before people: pairs that belong together, nothing that tells whose they are, and each rater's order."""

import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mmflow.people.questions import questions_of
from mmflow.people.session import Session, Settings, make_session
from mmflow.people.sides import open_side, shared_places
from tests.people.studies import PROMPTS, fill_predictions, fill_store, frames, planned, study


def test_questions_fit_what_is_shown() -> None:
    every = ("prompt", "aesthetics", "typography", "motion")
    assert questions_of("a cat", "picture", every) == ("prompt", "aesthetics")
    for quoted in ('says "hi"', "says “hi”", "a sign 'open' there"):
        assert questions_of(quoted, "picture", every) == ("prompt", "aesthetics", "typography")
    assert questions_of("the dog's ball and the cat's", "clip", every) == ("prompt", "aesthetics", "motion")
    assert questions_of("a cat", "clip", ("typography",), "always") == ("typography",)
    assert questions_of('a "cat"', "picture", every, "never") == ("prompt", "aesthetics")
    with pytest.raises(ValueError, match="questions are prompt, aesthetics, typography, motion: not taste"):
        questions_of("a cat", "picture", ("taste",))


def test_a_session_keeps_the_samples_and_nothing_that_tells_whose_they_are(tmp_path: Path) -> None:
    session = study(tmp_path)
    assert Session.open(session.folder) == session
    assert [item.questions for item in session.items] == [
        ("prompt", "aesthetics"),
        ("prompt", "aesthetics", "typography"),
        ("prompt", "aesthetics", "motion"),
    ]
    assert session.models[1].step == 200 and session.models[1].run == str((tmp_path / "secret-run-1").resolve())
    for i, item in enumerate(session.items[:2]):
        for m in range(2):
            with Image.open(session.file(i, m)) as image:
                assert np.array_equal(np.asarray(image), frames(m, 1)[0]) and not image.info, item
    for path in (session.folder / "media").iterdir():
        assert len(path.stem) == 16 and b"secret" not in path.read_bytes()
    with av.open(str(session.file(2, 0))) as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 4


def test_stores_and_folders_of_predictions_go_together(tmp_path: Path) -> None:
    sides = [
        open_side(str(fill_store(tmp_path / "a"))),
        open_side(str(fill_predictions(tmp_path / "b" / "predictions", 1))),
    ]
    assert [side.name for side in sides] == ["a 5 ema", "b"] and sides[1].run is None
    session = make_session(tmp_path / "s", sides)
    assert session.items[0].sources == (0, "00000.png") and len(session.pairs) == 3
    with Image.open(session.file(0, 1)) as image:
        assert np.array_equal(np.asarray(image), frames(1, 1)[0])


def test_a_files_own_words_do_not_come_along(tmp_path: Path) -> None:
    """A title in a clip, a comment in a PNG and EXIF in a JPEG say who made them."""
    folder = fill_predictions(tmp_path / "x")
    with av.open(str(folder / "00002.mp4")) as given, av.open(str(tmp_path / "t.mp4"), "w") as made:
        made.metadata["title"] = "secret-model"
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    assert b"secret-model" in (tmp_path / "t.mp4").read_bytes()
    (tmp_path / "t.mp4").replace(folder / "00002.mp4")
    exif = Image.Exif()
    exif[0x010E] = "secret-model"
    Image.fromarray(frames(0, 1)[0]).save(folder / "00000.jpg", exif=exif)
    (folder / "00000.png").unlink()
    index = (folder / "index.jsonl").read_text().replace("00000.png", "00000.jpg")
    (folder / "index.jsonl").write_text(index)
    session = make_session(tmp_path / "s", [open_side(str(folder)), open_side(str(fill_store(tmp_path / "a")))])
    assert not any(b"secret" in path.read_bytes() for path in (session.folder / "media").iterdir())


def test_images_of_one_prompt_pair_by_their_number(tmp_path: Path) -> None:
    sides = [open_side(str(fill_store(tmp_path / n, images=2))) for n in "ab"]
    assert shared_places(sides) == [(p, "clip" if "moving" in p else "picture", n) for p in PROMPTS for n in (0, 1)]


def test_what_does_not_compare_is_refused(tmp_path: Path) -> None:
    a, b = (fill_store(tmp_path / name) for name in "ab")
    other = fill_store(tmp_path / "c", prompts=[*PROMPTS[:2], "a cube", "a cone moving up"])
    with pytest.raises(ValueError, match=r"asked 1 clips that not all were asked, such as 'a blue square moving left'"):
        shared_places([open_side(str(a)), open_side(str(other))])
    assert len(shared_places([open_side(str(a)), open_side(str(other))], common=True)) == 2
    nothing = fill_store(tmp_path / "d", prompts=["a cube"])
    with pytest.raises(ValueError, match="share no prompt"):
        shared_places([open_side(str(a)), open_side(str(nothing))], common=True)
    with pytest.raises(ValueError, match="two folders or more, each another"):
        shared_places([open_side(str(a)), open_side(str(a))])
    with pytest.raises(ValueError, match="names of their own"):
        shared_places([open_side(f"x={a}"), open_side(f"x={b}")])
    with pytest.raises(ValueError, match="neither a store"):
        open_side(str(tmp_path))


def test_missing_extra_and_damaged_samples_are_told(tmp_path: Path) -> None:
    store, folder = fill_store(tmp_path / "a"), fill_predictions(tmp_path / "b")
    (store / "media" / "00001.png").unlink()
    (store / "media" / "grid.png").touch()
    with pytest.raises(ValueError, match=r"1 of 3 samples are missing \(places 1\) and 1 files are too many"):
        open_side(str(store))
    (folder / "00001.png").unlink()
    (folder / "left.png").touch()
    with pytest.raises(
        ValueError, match=r"1 files are missing \('00001.png'\), 1 are in the folder and not in it \('left"
    ):
        open_side(str(folder))
    whole = fill_predictions(tmp_path / "c")
    (whole / "00000.png").write_bytes(b"no picture")
    (whole / "index.jsonl").write_text((whole / "index.jsonl").read_text().replace("red", "green"))
    again = fill_predictions(tmp_path / "d", prompts=["a green circle", *PROMPTS[1:]])
    with pytest.raises(ValueError, match="is damaged"):
        make_session(tmp_path / "s", [open_side(str(whole)), open_side(str(again))])
    assert not (tmp_path / "s").exists() and not list(tmp_path.glob(".s*"))
    (whole / "00002.mp4").write_bytes(b"no clip")
    with pytest.raises(ValueError, match="no clip that can be read"):
        open_side(str(whole)).publish((PROMPTS[2], "clip", 0), tmp_path / "x", 8)
    for line in ("no json", '{"prompt": "a"}', '{"prompt": "a", "file": "a.txt"}', '{"prompt": 3, "file": "a.png"}'):
        (whole / "index.jsonl").write_text(line)
        with pytest.raises(ValueError, match=r"index.jsonl, line 1"):
            open_side(str(whole))


def test_what_is_there_is_not_overwritten_and_nothing_is_not_asked(tmp_path: Path) -> None:
    session = study(tmp_path)
    sides = [open_side(str(fill_store(tmp_path / name))) for name in "ab"]
    with pytest.raises(ValueError, match="is there already"):
        make_session(session.folder, sides)
    few = make_session(tmp_path / "few", sides, Settings(prompts=2))
    assert [item.prompt for item in few.items] == [PROMPTS[0], PROMPTS[2]]
    still = [open_side(str(fill_store(tmp_path / name, prompts=PROMPTS[:2]))) for name in "cd"]
    with pytest.raises(ValueError, match="nothing to ask"):
        make_session(tmp_path / "t", still, Settings(questions=("motion",)))
    for bad in ({"repeats": 2.0}, {"fps": 0.0}, {"prompts": 0}, {"questions": ("x",)}, {"typography": "x"}):
        with pytest.raises(ValueError):
            Settings(**bad)  # type: ignore[arg-type]


def test_damaged_sessions_are_told(tmp_path: Path) -> None:
    session = study(tmp_path)
    session.file(0, 0).unlink()
    with pytest.raises(ValueError, match="1 samples are missing"):
        Session.open(session.folder)
    path = session.folder / "session.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 2}))
    with pytest.raises(ValueError, match="of version 2"):
        Session.open(session.folder)
    path.write_text("{")
    with pytest.raises(ValueError, match="no session"):
        Session.open(session.folder)


def test_each_rater_has_an_order_of_his_own_sides_at_random_repeats_apart_and_swapped() -> None:
    session = planned(2, 200, Settings(repeats=0.2))
    tasks = session.tasks("anna")
    assert tasks == session.tasks("anna") != session.tasks("ben") and len(tasks) == len({t.id for t in tasks}) == 480
    first = {t.pair: t for t in tasks if t.repetition == 0}
    again = {t.pair: t for t in tasks if t.repetition == 1}
    assert len(first) == 200 and len(again) == 40
    assert all(first[pair].left != task.left for pair, task in again.items())
    order = list(dict.fromkeys((t.pair, t.repetition) for t in tasks))
    assert min(order.index((pair, 1)) - order.index((pair, 0)) for pair in again) > 10
    assert [t.question for t in tasks[:4]] == ["prompt", "aesthetics"] * 2 and tasks[0].left == tasks[1].left
    everyone = [session.tasks(f"r{n}") for n in range(20)]
    left = Counter(t.left for tasks in everyone for t in tasks if t.repetition == 0)
    assert abs(left["a"] / left.total() - 0.5) < 0.03
    assert len({tasks[0].pair for tasks in everyone}) > 12, "what comes first is another for each"


def test_a_rater_may_see_some_pairs_only() -> None:
    session = planned(3, 40, Settings(per_rater=20, repeats=0.0))
    seen = [{task.pair for task in session.tasks(f"r{n}")} for n in range(30)]
    assert {len(pairs) for pairs in seen} == {20} and len(set.union(*seen)) > 100
    single = planned(2, 1, Settings(repeats=1.0)).tasks("x")
    assert [task.repetition for task in single] == [0, 0, 1, 1]
