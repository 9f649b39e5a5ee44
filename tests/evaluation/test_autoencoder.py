"""The report of an autoencoder, of the shapes world's own held-out samples."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmflow.evaluation.autoencoder import autoencoder_report
from mmflow.evaluation.command import run
from tests.test_cli import TINY


@pytest.mark.filterwarnings("ignore:the Frechet distance of")
def test_the_identity_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["autoencoder", "--config", TINY, "--num", "4", "--json", str(tmp_path / "r.json")]) == 0
    assert "LPIPS: left out" in capsys.readouterr().out
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report["scores"]) == {"picture", "clip"}
    for scores in report["scores"].values():
        assert scores["psnr"]["value"] == np.inf and scores["ssim"]["value"] == pytest.approx(1)
        assert all(abs(s["value"]) < 1e-6 for name, s in scores.items() if name.startswith("frechet/"))
    assert any("conv3d" in name for name in report["scores"]["clip"])
    assert not any("conv3d" in name for name in report["scores"]["picture"])
    assert len(report["latents"]["picture"]["mean"]) == 3


def test_weights_that_are_not_there_are_told() -> None:
    with pytest.raises(ValueError, match=r"none\.pth is not there"):
        autoencoder_report(TINY, 2, lpips="./none.pth")
