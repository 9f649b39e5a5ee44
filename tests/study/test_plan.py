"""What a study's file says: cells, names, command lines, and what is wrong with it."""

from pathlib import Path

import pytest
import yaml

from mmflow.flow import formulations
from mmflow.study.controls import controls_of, difference, fingerprint
from mmflow.study.plan import Study, read_study

TINY = str(Path(__file__).parent.parent / "tiny.yaml")


def study(**changes: object) -> Study:
    axes = {
        "model.formulation": ["rf", "edm(-1.20,1.20)"],
        "data": {"words": {"data.world.color_share": 0.0}, "captions": {"data.world.color_share": 0.6}},
    }
    return Study(**{"base": TINY, "out": "runs/x", "axes": axes, "seeds": (0, 1), **changes})  # type: ignore[arg-type]


def test_cells_are_every_combination_and_have_names_of_their_own() -> None:
    cells = study().cells()
    assert len(cells) == 8 and len({cell.name for cell in cells}) == 8
    assert cells[1].labels == {"model.formulation": "rf", "data": "words", "seed": "1"}
    assert cells[1].overrides == {
        "model.formulation": "rf",
        "data.world.color_share": 0.0,
        "seed_everything": 1,
        "data.seed": 1,
    }
    assert cells[0].name.startswith("rf_words_0-")


def test_a_cell_keeps_its_name_when_others_come() -> None:
    more = study(axes={**study().axes, "model.formulation": "paper"}, seeds=(0, 1, 2))
    assert {cell.name for cell in study().cells()} <= {cell.name for cell in more.cells()}
    assert len(more.cells()) == 61 * 2 * 3


def test_presets_are_the_paper_s() -> None:
    assert tuple(study(axes={"model.formulation": "paper"}).axis("model.formulation")) == formulations.grid()
    assert len(study(axes={"model.formulation": "table1"}).cells()) == 16 * 2


def test_values_reach_the_command_line() -> None:
    mode = {"class_path": "Mode", "init_args": {"scale": 1}}
    axes = {"model.optimizer.lr": [1e-3, 3e-4], "model.objective.density": [mode]}
    one = study(axes=axes, rows="model.optimizer.lr", fixed={"data.low_discrepancy": False})
    arguments = one.arguments(one.cells()[0])
    assert arguments[:3] == ["fit", "--config", TINY] and "--resume=auto" in arguments
    assert {"--model.optimizer.lr=0.001", "--data.low_discrepancy=false", "--data.seed=0"} <= set(arguments)
    assert '--model.objective.density={"class_path": "Mode", "init_args": {"scale": 1}}' in arguments
    assert one.cells()[0].labels["model.objective.density"] == "Mode(scale=1)"


BAD = {
    "no axis to rank": ({"rows": "model.depth"}, ["model.depth", "model.formulation"]),
    "unknown formulation": ({"axes": {"model.formulation": ["rf/cosmpa"]}}, ["rf/cosmpa", "rf/cosmap"]),
    "unknown preset": ({"axes": {"model.formulation": "papers"}}, ["papers", "paper, table1"]),
    "a value twice": ({"axes": {"model.formulation": ["rf", "rf"]}}, ["twice", "rf"]),
    "no values": ({"axes": {"model.formulation": []}}, ["no values"]),
    "a lone value": ({"axes": {"model.formulation": 3}}, ["list of values"]),
    "no seeds": ({"seeds": ()}, ["seed"]),
    "matched in nothing": ({"matched": {"size": ["rf"]}}, ["size", "parameters or flops"]),
    "matched and not there": ({"matched": {"flops": ["rf", "rff"]}}, ["rff", "rf, edm(-1.20,1.20)"]),
    "unknown weights": ({"weights": ("swa",)}, ["swa"]),
    "records of another kind": ({"records": "docs/study.csv"}, [".jsonl", "docs/study.csv"]),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said(name: str) -> None:
    changes, words = BAD[name]
    with pytest.raises(ValueError) as error:
        study(**changes)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"axis": {}}, ["unknown axis", "axes"]),
        ({"base": "nowhere.yaml"}, ["nowhere.yaml"]),
        ({"judge": {"prompt": 3}}, ["judge", "unknown prompt", "prompts"]),
        ({"settings": [{"num_steps": 3}]}, ["missing guidance_scale"]),
    ],
)
def test_files_that_are_no_study(change: dict, words: list[str], tmp_path: Path) -> None:
    content = {"base": TINY, "out": "runs/x", "axes": {"model.formulation": ["rf"]}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**content, **change}))
    with pytest.raises(ValueError) as error:
        read_study(tmp_path / "study.yaml")
    assert all(word in str(error.value) for word in ["study.yaml", *words]), error.value
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(ValueError, match=r"list\.yaml"):
        read_study(tmp_path / "list.yaml")


CONFIG = """
trainer: {default_root_dir: runs/a, max_steps: 10}
model:
  optimizer: {class_path: mmflow.train.optim.AdamW, init_args: {lr: 0.001, eps: 1.0e-15}}
"""


def test_controls_are_all_that_is_not_on_an_axis() -> None:
    own = controls_of(CONFIG, ["model.optimizer.lr"], {"prompts": 3})
    assert own == {
        "trainer.max_steps": 10,
        "model.optimizer": "mmflow.train.optim.AdamW",
        "model.optimizer.eps": 1e-15,
        "judged.prompts": 3,
    }
    assert controls_of(CONFIG, ["model.optimizer"], {}) == {"trainer.max_steps": 10}
    other = controls_of(CONFIG.replace("10}", "20}"), ["model.optimizer.lr"], {"prompts": 3})
    assert difference(own, other) == ["trainer.max_steps: 10 -> 20"]
    assert fingerprint(own) != fingerprint(other) and fingerprint(own) == fingerprint(dict(reversed(own.items())))
