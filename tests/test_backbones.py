"""The paper's other backbones through the real command: swapped by name, trained, sampled, and kept apart."""

import csv
from pathlib import Path

import pytest

from mmflow.__main__ import main
from mmflow.model.family import family
from mmflow.train.weights import load_weights
from tests.model.rivals import RIVALS
from tests.test_bad_input import refused_fit
from tests.test_cli import TINY

Said = pytest.CaptureFixture[str]
PICTURES = ("--data.clip_share", "0", "--data.text_encoder.parts", "2")
STEPS = ("--trainer.max_steps", "12", "--model.optimizer.lr", "1e-2", "--probes.every_n_steps", "6")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of every backbone."""
    folder = tmp_path_factory.mktemp("backbones")
    for name in RIVALS:
        arguments = ("--config", TINY, "--trainer.default_root_dir", str(folder / name), "--model.backbone", name)
        main(["fit", *arguments, *PICTURES, *STEPS])
    return folder


@pytest.mark.parametrize("name", RIVALS)
def test_it_trains_on_the_shapes_world(runs: Path, name: str) -> None:
    with (runs / name / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
    probes = [float(row["attention/entropy_last"]) for row in rows if row["attention/entropy_last"]]
    assert len(probes) == 2 and min(probes) > 0
    assert len(losses) == 12 and sum(losses[-3:]) < 0.97 * sum(losses[:3])
    assert f".{name}\n" in (runs / name / "config.yaml").read_text()
    assert str(family(load_weights(str(runs / name)))).endswith(f".{name}")


def test_one_is_sampled_by_its_run_directory(runs: Path, tmp_path: Path) -> None:
    main(
        [
            "predict",
            "--ckpt_path",
            str(runs / "UViT"),
            "--data.prompts",
            "a red circle",
            "--predictions.folder",
            str(tmp_path / "made"),
        ]
    )
    assert list(tmp_path.rglob("*.png"))


def test_weights_of_another_family_are_named(runs: Path, tmp_path: Path, capfd: Said) -> None:
    for name, other in (("CrossDiT", "DiT"), ("UViT", "CrossDiT"), ("MMDiT", "MMDiT3")):
        arguments = ("--model.backbone", name, *PICTURES, "--model.init_from", runs / other)
        said = refused_fit(capfd, tmp_path / name, *arguments)
        assert f"another family: a {other}'s, the model is a {name}: set --model.backbone mmflow.model." in said, said
        assert "missing: " in said and "unexpected: " in said
    said = refused_fit(capfd, tmp_path / "x", "--model.backbone", "DiT", *PICTURES, "--ckpt_path", runs / "MMDiT3")
    assert "another model" in said and "set --model.backbone mmflow.model.mmdit3.MMDiT3" in said


def test_clips_are_refused_before_training(tmp_path: Path, capfd: Said) -> None:
    said = refused_fit(capfd, tmp_path / "run", "--model.backbone", "CrossDiT")
    assert "CrossDiT is a model of pictures" in said and "--data.clip_share 0" in said
