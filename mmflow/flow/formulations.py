"""The paper's names of path, prediction and density together: `rf/lognorm(0.00,1.00)`, `eps/linear`, `edm(-1.20,1.20)`.

`parse` reads them, `name` prints them, `grid` is the study's 61 (section 5.1). Numbers in the grid are those of the
names, with two decimals. The timestep shift is no part of a name.
"""

import re
from difflib import get_close_matches
from math import isfinite

from mmflow.flow.density import CosMap, LogitNormal, Mode, Uniform
from mmflow.flow.diffusion_path import Cosine, Edm, Exploding, LdmLinear
from mmflow.flow.diffusion_prediction import EdmF, Epsilon, V
from mmflow.flow.objective import FlowObjective
from mmflow.flow.path import RectifiedFlow
from mmflow.flow.prediction import Velocity
from mmflow.flow.shift import AbstractShift, ConstantShift

FIXED: dict[str, FlowObjective] = {
    "rf": FlowObjective(RectifiedFlow(), Velocity(), Uniform()),
    "rf/cosmap": FlowObjective(RectifiedFlow(), Velocity(), CosMap()),
    "eps/linear": FlowObjective(LdmLinear(), Epsilon(), Uniform()),
    "v/linear": FlowObjective(LdmLinear(), V(), Uniform()),
    "eps/cos": FlowObjective(Cosine(), Epsilon(), Uniform()),
    "v/cos": FlowObjective(Cosine(), V(), Uniform()),
    "edm/rf": FlowObjective(Exploding(RectifiedFlow()), EdmF(), Uniform()),
    "edm/cos": FlowObjective(Exploding(Cosine()), EdmF(), Uniform()),
}
"""Formulations without numbers."""
NUMBERS = {"rf/mode": 1, "rf/lognorm": 2, "edm": 2}
"""Families with numbers in brackets, and how many: mode(s), lognorm(m,s), edm(P_m,P_s)."""

MODE_SCALES = (-1.0, -0.54, -0.08, 0.38, 0.83, 1.29, 1.75, 1.0)
LOGNORM_MEANS, LOGNORM_STDS = (-1.0, -0.5, 0.0, 0.5, 1.0), (0.2, 0.6, 1.0, 1.4, 1.8, 2.2)
EDM_MEANS, EDM_STDS = (-1.2, -0.6, 0.0, 0.6, 1.2), (0.6, 1.2, 1.8)

TABLE_1 = {
    "rf/lognorm(0.00,1.00)": (1.54, 1.25, 1.50),
    "rf/lognorm(1.00,0.60)": (2.08, 3.50, 2.00),
    "rf/lognorm(0.50,0.60)": (2.71, 8.50, 1.00),
    "rf/mode(1.29)": (2.75, 3.25, 3.00),
    "rf/lognorm(0.50,1.00)": (2.83, 1.50, 2.50),
    "eps/linear": (2.88, 4.25, 2.75),
    "rf/mode(1.75)": (3.33, 2.75, 2.75),
    "rf/cosmap": (4.13, 3.75, 4.00),
    "edm(0.00,0.60)": (5.63, 13.25, 3.25),
    "rf": (5.67, 6.50, 5.75),
    "v/linear": (6.83, 5.75, 7.75),
    "edm(0.60,1.20)": (9.00, 13.00, 9.00),
    "v/cos": (9.17, 12.25, 8.75),
    "edm/cos": (11.04, 14.25, 11.25),
    "edm/rf": (13.04, 15.25, 13.25),
    "edm(-1.20,1.20)": (15.58, 20.25, 15.00),
}
"""The rows of the paper's Table 1, in its order: mean rank over all 24 controls, with 5 steps and with 50."""


def grid() -> tuple[str, ...]:
    """The names of the paper's 61 formulations, family by family (section 5.1)."""
    return (
        "eps/linear",
        "v/linear",
        "eps/cos",
        "v/cos",
        "rf",
        *(_bracket("rf/mode", s) for s in MODE_SCALES),
        *(_bracket("rf/lognorm", m, s) for m in LOGNORM_MEANS for s in LOGNORM_STDS),
        "rf/cosmap",
        *(_bracket("edm", m, s) for m in EDM_MEANS for s in EDM_STDS),
        "edm/rf",
        "edm/cos",
    )


def parse(text: str, shift: AbstractShift | None = None) -> FlowObjective:
    """The objective of a name.

    Args:
        text: as in the paper; blanks and the long minus sign are allowed.
        shift: of the timesteps; none if not given.

    Raises:
        ValueError: if there is no such name, with the nearest ones, or a number is out of range.
    """
    clean = re.sub(r"\s", "", text).replace("−", "-")
    parts = FIXED[clean] if clean in FIXED else _numbered(clean, text)
    return FlowObjective(parts.path, parts.prediction, parts.density, ConstantShift() if shift is None else shift)


def instead(objective: FlowObjective, text: str) -> FlowObjective:
    """The objective of a name with the shift of another, whose other parts are the defaults.

    Raises:
        ValueError: if they are not: a name and parts together say two things.
    """
    if FlowObjective(shift=objective.shift) != objective:
        raise ValueError(f"formulation {text!r} names path, prediction and density: give it or these parts, not both")
    return parse(text, objective.shift)


def _numbered(clean: str, text: str) -> FlowObjective:
    match = re.fullmatch(r"([a-z/]+)\(([^()]*)\)", clean)
    if match is None or match[1] not in NUMBERS:
        raise ValueError(_unknown(text))
    try:
        numbers = [float(number) for number in match[2].split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != NUMBERS[match[1]] or not all(map(isfinite, numbers)):
        raise ValueError(f"{text!r}: {match[1]} takes {NUMBERS[match[1]]} number(s), as in {_example(match[1])}")
    try:
        match match[1]:
            case "rf/mode":
                return FlowObjective(RectifiedFlow(), Velocity(), Mode(*numbers))
            case "rf/lognorm":
                return FlowObjective(RectifiedFlow(), Velocity(), LogitNormal(*numbers))
            case _:
                return FlowObjective(Edm(*numbers), EdmF(), Uniform())
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from error


def name(objective: FlowObjective) -> str:
    """The name of an objective, its shift aside.

    Raises:
        ValueError: if these parts have no name.
    """
    parts = FlowObjective(objective.path, objective.prediction, objective.density)
    for text, fixed in FIXED.items():
        if parts == fixed:
            return text
    numbered = _name_of_numbers(parts)
    if numbered is not None and parse(numbered) == parts:
        return numbered
    raise ValueError(f"no formulation of the paper has these parts together: {parts}")


def _name_of_numbers(parts: FlowObjective) -> str | None:
    match parts.path, parts.density:
        case RectifiedFlow(), Mode(scale):
            return _bracket("rf/mode", scale)
        case RectifiedFlow(), LogitNormal(mean, std):
            return _bracket("rf/lognorm", mean, std)
        case Edm(mean, std), Uniform():
            return _bracket("edm", mean, std)
    return None


def _bracket(family: str, *numbers: float) -> str:
    """`family(0.00,1.00)`: two decimals, or as many as the number needs."""
    texts = [f"{x + 0.0:.2f}" if float(f"{x:.2f}") == x else repr(x) for x in numbers]
    return f"{family}({','.join(texts)})"


def _example(family: str) -> str:
    return next(text for text in grid() if text.startswith(family + "("))


def _unknown(text: str) -> str:
    families = ", ".join([*FIXED, *(f"{family}(...)" for family in NUMBERS)])
    return f"unknown formulation {text!r}; nearest are {', '.join(_nearest(text))}; the families are {families}"


def _nearest(text: str) -> list[str]:
    """Names of the grid whose words, and then whose numbers, are nearest."""
    words, *rest = text.split("(")
    numbers = [float(x) for x in re.findall(r"-?\d+\.?\d*", "".join(rest))]
    found: list[str] = []
    for family in get_close_matches(words, [*FIXED, *NUMBERS], n=3, cutoff=0.0):
        if family in FIXED:
            found.append(family)
            continue
        members = [member for member in grid() if member.startswith(family + "(")]
        found += sorted(members, key=lambda member: _distance(member, numbers))[:2]
    return found[:4]


def _distance(member: str, numbers: list[float]) -> float:
    own = [float(x) for x in member[member.index("(") + 1 : -1].split(",")]
    return sum(abs(a - b) for a, b in zip(own, numbers, strict=False))
