"""Which backbone a set of tensors belongs to, by their names."""

from collections.abc import Iterable

MARKS = {
    "mmflow.model.mmdit.MMDiT": ("blocks.0.visual.", "blocks.0.context."),
    "mmflow.model.mmdit3.MMDiT3": ("blocks.0.visual.", "blocks.0.clip.", "blocks.0.t5."),
    "mmflow.model.dit.DiT": ("blocks.0.both.",),
    "mmflow.model.crossdit.CrossDiT": ("blocks.0.visual.", "blocks.0.cross.", "picture_patchifier."),
    "mmflow.model.uvit.UViT": ("blocks.0.visual.", "blocks.0.cross.", "levels.0."),
}
"""What the names of each begin with; a later one is told by more."""


def family(names: Iterable[str]) -> str | None:
    """The backbone's class path; None if it is none of ours."""
    names = list(names)
    fitting = [path for path, marks in MARKS.items() if all(any(n.startswith(m) for n in names) for m in marks)]
    return fitting[-1] if fitting else None
