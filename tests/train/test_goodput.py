"""Hours by kind, over starts and losses, against a clock that is set by hand."""

from pathlib import Path

import pytest

from mmflow.train.goodput import Ledger


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def spend(ledger: Ledger, clock: Clock, **seconds: float) -> None:
    for kind, duration in seconds.items():
        ledger.turn_to(kind)
        clock.now += duration
    ledger.turn_to("data")


def test_a_start_a_loss_and_a_continuation(tmp_path: Path) -> None:
    clock = Clock()
    first = Ledger(tmp_path / "goodput.json", clock)
    clock.now += 7
    first.take_up(continued=False, began=1000.0)
    spend(first, clock, train=60, data=3, evaluate=10, save=5)
    first.saved()
    spend(first, clock, train=20, data=1)
    first.write()
    spend(first, clock, train=4)  # killed before it was written
    clock.now += 100  # in the queue
    second = Ledger(tmp_path / "goodput.json", clock)
    second.take_up(continued=True, began=clock.now - 2)
    spend(second, clock, train=30)
    expected = {"train": 90, "evaluate": 10, "save": 5, "data": 3, "restart": 7 + 104, "waste": 21}
    assert second.seconds == pytest.approx(expected)
    assert sum(second.seconds.values()) == pytest.approx(clock.now - 1000), "no second is lost or counted twice"
    assert second.hours()["train"] == pytest.approx(90 / 3600, abs=1e-6)
    assert second.hours()["goodput"] == pytest.approx(90 / 240, abs=1e-4)


def test_a_new_run_owes_nothing_to_an_old_file(tmp_path: Path) -> None:
    clock = Clock()
    (tmp_path / "goodput.json").write_text("cut sho")
    for continued in (False, True):
        ledger = Ledger(tmp_path / "goodput.json", clock)
        ledger.take_up(continued, began=clock.now - 5)
        assert ledger.seconds["restart"] == 5 and ledger.seconds["waste"] == 0
