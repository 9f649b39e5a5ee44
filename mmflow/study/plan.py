"""What a study consists of: a base configuration, axes over its keys, seeds, and how every cell is judged."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from mmflow.shapes.prompts import GENEVAL_TASKS

FORMULATION = "model.formulation"
PRESETS = ("paper", "table1")
"""Named lists of values for the axis `model.formulation`: the paper's 61, and the rows of its Table 1."""
MATCHED = {"parameters": "parameters", "flops": "step_flops"}
"""What cells can be matched by, and its name in a cell's size."""
SEED_KEYS = ("seed_everything", "data.seed")
WRITES = {FORMULATION: ("model.objective.path", "model.objective.prediction", "model.objective.density")}
"""Keys that a key changes beside itself."""


@dataclass(frozen=True)
class Setting:
    """How pictures are sampled."""

    num_steps: int
    guidance_scale: float
    solver: str = "Euler"


PAPER_SETTINGS = tuple(Setting(*pair) for pair in ((50, 1.0), (50, 2.5), (50, 5.0), (5, 5.0), (10, 5.0), (25, 5.0)))
"""The paper's six: Euler, 50 steps at three guidance scales, and fewer steps at the largest."""


@dataclass(frozen=True)
class JudgeSettings:
    """What is asked of every cell in every setting.

    Attributes:
        prompts: per task of GenEval.
        images: per prompt.
        seed: of the choice of prompts and of the noise.
        clip: a CLIP's folder: adds the columns clip_score, clip_frechet and clip_kernel.
        tasks: of GenEval that are asked, and whose mean is the score; null is all six.

    Raises:
        ValueError: for a task that there is not.
    """

    prompts: int = 20
    images: int = 2
    seed: int = 0
    clip: str | None = None
    tasks: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        unknown = [task for task in self.tasks or () if task not in GENEVAL_TASKS]
        if unknown or self.tasks == ():
            raise ValueError(
                f"judge.tasks must be some of {', '.join(GENEVAL_TASKS)}, got {', '.join(map(str, unknown)) or 'none'}"
            )


@dataclass(frozen=True)
class Cell:
    """One training run: a value on every axis, and a seed."""

    labels: dict[str, str]
    overrides: dict[str, Any]

    @property
    def name(self) -> str:
        """Folder of the cell: what it is, for people, and a hash of what it sets, which makes it unique."""
        words = re.sub(r"[^A-Za-z0-9.\-]+", "_", "__".join(self.labels.values())).strip("_")
        digest = hashlib.blake2b(json.dumps(self.overrides, sort_keys=True).encode(), digest_size=4).hexdigest()
        return f"{words[:80]}-{digest}"


@dataclass(frozen=True)
class Study:
    """A study as its YAML says it.

    Attributes:
        base: configuration of `python -m mmflow fit` that all cells share.
        out: folder of the study.
        axes: name -> values. A list holds values of the configuration key that is the axis's name; a mapping holds
            label -> {key: value, ...}; a word is a preset of formulations, `paper` or `table1`.
        seeds: of training: order of the data, every draw, first weights.
        rows: the axis whose values are ranked; the others, and the settings, are controls.
        fixed: keys set alike in all cells, over the base.
        settings: of sampling.
        weights: which are scored: `ema`, `raw`.
        judge: how much is asked.
        matched: `parameters` or `flops` -> values of `rows` that are meant to be alike in it, the first of them the one
            that the others are matched to.
        curve: every checkpoint that was validated is scored too, by the first setting and averaged weights.
        records: a .jsonl file to which every finished cell is added: what it has is not run again on another machine.
    """

    base: str
    out: str
    axes: dict[str, Any]
    seeds: tuple[int, ...] = (0,)
    rows: str = FORMULATION
    fixed: dict[str, Any] = field(default_factory=dict)
    settings: tuple[Setting, ...] = PAPER_SETTINGS
    weights: tuple[str, ...] = ("ema", "raw")
    judge: JudgeSettings = JudgeSettings()
    matched: dict[str, list[str]] = field(default_factory=dict)
    curve: bool = False
    records: str | None = None

    def __post_init__(self) -> None:
        if self.rows not in self.axes:
            raise ValueError(f"rows: {self.rows!r} is no axis of this study; its axes are {', '.join(self.axes)}")
        if not self.seeds or not self.settings or not self.weights:
            raise ValueError("a study needs at least one seed, one sampling setting and one kind of weights")
        if unknown := set(self.weights) - {"ema", "raw"}:
            raise ValueError(f"weights are ema and raw, got {', '.join(map(str, unknown))}")
        if self.records is not None and not str(self.records).endswith(".jsonl"):
            raise ValueError(f"records: a study's finished cells are kept in a .jsonl file, got {self.records!r}")
        for name in self.axes:
            values = self.axis(name)
            if not values:
                raise ValueError(f"axis {name!r} has no values")
        for kind, labels in self.matched.items():
            strange = [label for label in labels if label not in self.axis(self.rows)]
            if kind not in MATCHED or not labels or strange:
                raise ValueError(
                    f"matched: {kind}: {labels} must be {' or '.join(MATCHED)} and values of the axis {self.rows!r}, "
                    f"which has {', '.join(self.axis(self.rows))}"
                )

    def axis(self, name: str) -> dict[str, dict[str, Any]]:
        """Label -> keys and values, of one axis.

        Raises:
            ValueError: if the axis is neither a list, nor a mapping of mappings, nor a preset; or names no formulation.
        """
        values = self.axes[name]
        if isinstance(values, str):
            if name != FORMULATION or values not in PRESETS:
                raise ValueError(f"axis {name!r}: {values!r} is no preset; {FORMULATION} has {', '.join(PRESETS)}")
            values = preset(values)
        if isinstance(values, list):
            found: dict[str, dict[str, Any]] = {label(value): {name: value} for value in values}
            if len(found) != len(values):
                raise ValueError(f"axis {name!r} names a value twice: {', '.join(label(v) for v in values)}")
        elif isinstance(values, dict) and all(isinstance(each, dict) for each in values.values()):
            found = {str(key): dict(each) for key, each in values.items()}
        else:
            raise ValueError(f"axis {name!r} must be a list of values or a mapping label -> {{key: value}}")
        for keys in found.values():
            if FORMULATION in keys:
                check_formulation(str(keys[FORMULATION]))
        return found

    def cells(self) -> list[Cell]:
        """Every combination, seeds fastest."""
        axes = [list(self.axis(name).items()) for name in self.axes]
        cells = []
        for chosen in product(*axes):
            labels = {name: text for name, (text, _) in zip(self.axes, chosen, strict=True)}
            overrides = {key: value for _, keys in chosen for key, value in keys.items()}
            for seed in self.seeds:
                cells.append(Cell(labels | {"seed": str(seed)}, overrides | dict.fromkeys(SEED_KEYS, seed)))
        return cells

    def varied(self) -> set[str]:
        """All configuration keys in which cells may differ."""
        keys = {key for name in self.axes for each in self.axis(name).values() for key in each}
        return keys | set(SEED_KEYS) | {other for key in keys for other in WRITES.get(key, ())}

    def folder(self, cell: Cell) -> Path:
        """Where a cell's run and results lie."""
        return Path(self.out) / "cells" / cell.name

    def arguments(self, cell: Cell) -> list[str]:
        """The command line of the cell's `fit`."""
        pairs = {
            **self.fixed,
            **cell.overrides,
            "trainer.default_root_dir": str(self.folder(cell) / "run"),
            "checkpoints.keep": -1,
            "scores.quick.prompts": 0,
            "previews.every_n_steps": 0,
            "model.sampling.weights": "ema",  # the checkpoint is picked by their validation loss
            "wandb.mode": "off",
        }
        flags = [f"--{key}={text(value)}" for key, value in pairs.items()]
        return ["fit", "--config", self.base, *flags, "--resume=auto"]


def preset(name: str) -> list[str]:
    """The formulations of a preset."""
    from mmflow.flow import formulations

    return list({"paper": formulations.grid(), "table1": formulations.TABLE_1}[name])


def check_formulation(name: str) -> None:
    """Refuses names of no formulation, with the nearest ones."""
    from mmflow.flow import formulations

    formulations.parse(name)


def label(value: Any) -> str:
    """A value in a table: itself, or a class and its arguments."""
    if not isinstance(value, dict):
        return str(value)
    name = str(value.get("class_path", "")).rsplit(".", 1)[-1]
    arguments = ",".join(f"{key}={label(each)}" for key, each in value.get("init_args", value).items() if key != name)
    return f"{name}({arguments})" if name else json.dumps(value, sort_keys=True)


def text(value: Any) -> str:
    """A value on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def read_study(path: str | Path) -> Study:
    """The study of a YAML file.

    Raises:
        ValueError: if the file is none, or misses or misspells a key.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as a study: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no study: it must be a mapping with base, out and axes")
    _check_keys(path, content, Study, required=("base", "out", "axes"))
    for name, kind in (("judge", JudgeSettings),):
        if name in content:
            _check_keys(f"{path}: {name}", content[name], kind)
            asked = content[name].items()
            given: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in asked}
            content[name] = kind(**given)
    if "settings" in content:
        for each in content["settings"]:
            _check_keys(f"{path}: settings", each, Setting, required=("num_steps", "guidance_scale"))
        content["settings"] = tuple(Setting(**each) for each in content["settings"])
    for name in ("seeds", "weights"):
        if name in content:
            content[name] = tuple(content[name])
    if not Path(content["base"]).is_file():
        raise ValueError(f"{path}: base {content['base']!r} is no file; paths start where the tool is called")
    return Study(**content)


def _check_keys(where: str | Path, content: Any, kind: type, required: tuple[str, ...] = ()) -> None:
    names = [each.name for each in dataclasses.fields(kind)]
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a mapping with {', '.join(names)}, got {content!r}")
    unknown, missing = [key for key in content if key not in names], [key for key in required if key not in content]
    if unknown or missing:
        wrong = {"unknown": unknown, "missing": missing}
        what = "; ".join(f"{word} {', '.join(map(str, keys))}" for word, keys in wrong.items() if keys)
        raise ValueError(f"{where}: {what}. The keys are {', '.join(names)}")
