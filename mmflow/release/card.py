"""What stands beside exported weights for people and programs: README.md and the header of the files."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmflow.model.archive import Outgoing
from mmflow.model.hub import is_hub_id
from mmflow.model.layouts import Shape

SD3_MEDIUM = Shape(24, 1536, 16, 16, 2, 4096, 2048, qk_norm=False, dual_blocks=0, table=192)


@dataclass(frozen=True)
class Facts:
    """Of the model that is exported.

    Attributes:
        title: its name.
        step: optimizer steps of the checkpoint.
        weights: `averaged` or `raw`.
        base: what the run started from; None for nothing.
        licence: of the exported weights, as their owner states it; None if nothing was said.
        shift: alpha of the timestep shift, in words.
        text_layout: `sd3` or `packed`.
        sampling: the run's own (steps, guidance scale, solver).
        size: pixels (height, width) that the run was trained at.
        verdict: whether it loads in the stock programs, and because of what not.
        notes: what a user must know beside.
    """

    title: str
    step: int
    weights: str
    base: str | None
    licence: str | None
    shift: str
    text_layout: str
    sampling: tuple[int, float, str]
    size: tuple[int, int]
    verdict: list[str]
    notes: list[str]


def header(facts: Facts, shape: Shape | None, implementation: str) -> dict[str, str]:
    """Metadata of a safetensors file by Stability AI's ModelSpec 1.0.

    Args:
        facts: of the model.
        shape: of its picture half; None for a backbone that is no MM-DiT.
        implementation: whose names the tensors have: `diffusers`, `sd3-ref` or `mmflow`.
    """
    architecture = "mmflow" if shape is None else f"mmdit-d{shape.depth}"
    made = f"step {facts.step}, {facts.weights} weights, shift {facts.shift}, text layout {facts.text_layout}"
    found = {
        "sai_model_spec": "1.0.0",
        "architecture": "stable-diffusion-v3-medium" if shape == SD3_MEDIUM else architecture,
        "implementation": implementation,
        "title": facts.title,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "resolution": f"{facts.size[1]}x{facts.size[0]}",
        "description": made + (f", from {facts.base}" if facts.base else ""),
        "license": facts.licence or "",
        "tags": "mmflow, rectified flow, MM-DiT",
    }
    return {f"modelspec.{name}": value for name, value in found.items() if value}


def readme(facts: Facts, usage: str) -> str:
    """The card: base, licences, step, shift, text layout, what it loads in and how."""
    steps, scale, solver = facts.sampling
    head = ["---", "library_name: diffusers", "pipeline_tag: text-to-image"]
    head += [f"license: {facts.licence}"] if facts.licence else []
    head += [f"base_model: {facts.base}"] if facts.base and is_hub_id(facts.base) else []
    licence = facts.licence or "not stated by whoever exported it (tools/export.py --licence)"
    rows = {
        "base": facts.base or "none: trained from its first weights",
        "licence of these weights": licence,
        "licence of the base and the frozen networks": "their own; it goes on to apply to what was made from them"
        if facts.base
        else "their own",
        "trained": f"{facts.step} optimizer steps; {facts.weights} weights; {facts.size[1]} x {facts.size[0]} pixels",
        "timestep shift": facts.shift,
        "text layout": facts.text_layout,
        "sampling of the run": f"{solver}, {steps} steps, guidance {scale}",
    }
    return "\n".join(
        [
            *head,
            "---",
            "",
            f"# {facts.title}",
            "",
            "An MM-DiT trained by a rectified flow with [mmflow](https://pypi.org/project/mmflow-mmdit/).",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows.items()),
            "",
            f"{facts.verdict[0]}{':' if facts.verdict[1:] else ''}",
            "",
            *(f"- {line.strip()}" for line in [*facts.verdict[1:], *facts.notes]),
            "",
            "```python",
            usage,
            "```",
            "",
        ]
    )


def describe(tensors: list[Outgoing]) -> str:
    """Number, kind and size of what was written."""
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in tensors})
    size = sum(t.num_bytes for t in tensors)
    amount = f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"
    return f"{len(tensors)} tensors, {' and '.join(kinds)}, {amount}"


def write_json(path: Path, value: Any) -> None:
    """Indented, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
