"""Names of the paper: what they mean, that they print back, and what is said to those who mistype them."""

import pytest

from mmflow.flow import formulations
from mmflow.flow.density import CosMap, LogitNormal, Mode, Uniform
from mmflow.flow.diffusion_path import Cosine, Edm, Exploding, LdmLinear
from mmflow.flow.diffusion_prediction import EdmF, Epsilon, V
from mmflow.flow.objective import FlowObjective
from mmflow.flow.path import RectifiedFlow
from mmflow.flow.prediction import Data, Velocity
from mmflow.flow.shift import ConstantShift

MEANT = {
    "rf": (RectifiedFlow(), Velocity(), Uniform()),
    "rf/lognorm(0.00,1.00)": (RectifiedFlow(), Velocity(), LogitNormal(0.0, 1.0)),
    "rf/mode(1.29)": (RectifiedFlow(), Velocity(), Mode(1.29)),
    "rf/cosmap": (RectifiedFlow(), Velocity(), CosMap()),
    "eps/linear": (LdmLinear(), Epsilon(), Uniform()),
    "v/cos": (Cosine(), V(), Uniform()),
    "edm(-1.20,1.20)": (Edm(-1.2, 1.2), EdmF(), Uniform()),
    "edm/rf": (Exploding(RectifiedFlow()), EdmF(), Uniform()),
}


@pytest.mark.parametrize("name", MEANT)
def test_a_name_means_its_parts(name: str) -> None:
    assert formulations.parse(name) == FlowObjective(*MEANT[name])


def test_the_grid_is_the_paper_s_61() -> None:
    grid = formulations.grid()
    assert len(set(grid)) == len(grid) == 61
    counts = {family: sum(name.startswith(family) for name in grid) for family in ("rf/mode", "rf/lognorm", "edm(")}
    assert counts == {"rf/mode": 8, "rf/lognorm": 30, "edm(": 15}
    objectives = [formulations.parse(name) for name in grid]
    assert len(set(objectives)) == 61
    assert [formulations.name(objective) for objective in objectives] == list(grid)
    assert set(formulations.TABLE_1) <= set(grid) and len(formulations.TABLE_1) == 16
    assert {"rf/mode(-0.54)", "rf/mode(1.75)", "rf/lognorm(-1.00,2.20)", "edm(1.20,1.80)"} <= set(grid)


def test_spelling_is_free_where_meaning_is_clear() -> None:
    assert formulations.parse("edm( −1.2, 1.2)") == formulations.parse("edm(-1.20,1.20)")
    assert formulations.name(formulations.parse("rf/mode(0.375)")) == "rf/mode(0.375)"
    assert formulations.name(formulations.parse("rf/lognorm(-0,1)")) == "rf/lognorm(0.00,1.00)"


def test_the_shift_is_its_own_matter() -> None:
    objective = formulations.parse("rf/cosmap", ConstantShift(3.0))
    assert objective.shift == ConstantShift(3.0) and formulations.name(objective) == "rf/cosmap"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rf/lognrm(0,1)", ["rf/lognrm(0,1)", "rf/lognorm(0.00,1.00)"]),
        ("eps/lineal", ["eps/linear"]),
        ("something else", ["something else", "rf/cosmap", "edm(...)"]),
        ("rf/mode(1.8)", ["rf/mode(1.8)", "1.7519", "1.8"]),
        ("edm(0,-1)", ["edm(0,-1)", "P_s", "-1"]),
        ("rf/lognorm(0)", ["rf/lognorm takes 2", "rf/lognorm(-1.00,0.20)"]),
        ("rf/lognorm(0,nan)", ["takes 2"]),
        ("rf/mode()", ["takes 1"]),
    ],
)
def test_what_is_wrong_is_said(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        formulations.parse(text)
    assert all(word in str(error.value) for word in words), error.value


def test_parts_without_a_name_have_none() -> None:
    for parts in (FlowObjective(prediction=Data()), FlowObjective(path=Edm()), FlowObjective(LdmLinear(steps=10))):
        with pytest.raises(ValueError, match="no formulation"):
            formulations.name(parts)
