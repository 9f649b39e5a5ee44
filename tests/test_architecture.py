"""Who may import whom: the rooms of the house and the one file that each foreign library is confined to."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "mmflow"
ALLOWED = {
    "said": set(),
    "sample": {"said"},
    "batch": {"said", "sample"},
    "draws": set(),
    "shapes": set(),
    "flow": set(),
    "model": {"batch"},
    "encoders": {"batch", "said"},
    "export": {"batch"},
    "data": {"batch", "said", "draws", "shapes"},
    "metrics": {"batch", "draws", "shapes"},
    "people": {"draws", "export", "metrics"},
    "train": {"batch", "draws", "flow", "model", "metrics", "export"},
}
"""Rooms that a room may import beside itself; rooms that are not named here (study, pipeline, cli) may import all."""
HUB_USERS = (
    "pretrained",
    "clip_network",
    "preference",
    "image_reward",
    "transformers_features",
    "mask2former",
    "blip_vqa",
    "video_features",
)
EXCEPTIONS = {
    ("data/module.py", "encoders"),
    # where pretrained networks come from, and what is said when they are not there, is told once
    *((f"metrics/{name}.py", "encoders") for name in HUB_USERS),
}
CONFINED = {
    "decord": {"data/decode.py"},
    "matplotlib": {"study/plot.py", "report/plot.py"},
    "xformers": {"model/attention.py"},
    "wandb": {"train/loggers.py", "train/wandb_file.py"},
}
"""Foreign libraries and the only files that may import them."""
NEVER = {"diffusers": {"encoders"}, "transformers": {"encoders", "metrics"}, "torchvision": set()}


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "mmflow")


def files() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))


def room(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("name", files())
def test_imports_go_one_way(name: str) -> None:
    allowed = ALLOWED.get(room(name))
    for module in imports(ROOT / name):
        top, *rest = module.split(".")
        if top == "mmflow" and rest and allowed is not None and (name, rest[0]) not in EXCEPTIONS:
            assert rest[0] in allowed | {room(name)}, f"{name} imports {module}"
        if top in CONFINED:
            assert name in CONFINED[top], f"{name} imports {module}"
        if top in NEVER:
            assert room(name) in NEVER[top], f"{name} imports {module}"


def test_flow_imports_torch_and_nothing_else() -> None:
    standard = {"abc", "collections", "dataclasses", "functools", "math", "typing", "re", "difflib", "__future__"}
    for path in (ROOT / "flow").glob("*.py"):
        tops = {module.split(".")[0] for module in imports(path)}
        assert tops <= standard | {"torch", "jaxtyping", "mmflow"}, path.name


def test_every_module_of_the_package_is_seen() -> None:
    assert {"batch", "draws", "flow", "model", "train", "data", "shapes"} <= {room(name) for name in files()}
