"""The measured cost of attention: from a configuration to the line that a run is given."""

import re
from pathlib import Path

import pytest

from tests.tools.load import load

ROOT = Path(__file__).parents[2]


def main(*arguments: str) -> int:
    tool = load("measure_cost")
    return tool.main(list(arguments))


def test_every_shape_is_measured_and_the_option_printed(capsys: pytest.CaptureFixture) -> None:
    tiny = (
        "--config",
        str(ROOT / "tests" / "tiny.yaml"),
        "--rounds",
        "3",
        "--tokens",
        "100",
        "--data.world.frames",
        "8",
    )
    assert main(*tiny) == 0
    said = capsys.readouterr().out
    assert "1 x 32 x 32" in said and "8 x 32 x 32" in said
    assert float(re.search(r"--data\.attention_cost (\S+)", said)[1]) >= 0


def test_one_shape_says_nothing_of_attention(capsys: pytest.CaptureFixture) -> None:
    tiny = ("--config", str(ROOT / "tests" / "tiny.yaml"), "--rounds", "1", "--data.clip_share", "0")
    assert main(*tiny) == 1 and "at least two sizes" in capsys.readouterr().err
    assert main("--config", "x", "--rounds", "0") == 1 and "--rounds 0" in capsys.readouterr().err
